/*
Copyright The Leat Authors.

Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License.
*/

package api

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/leat-dev/leat/pkg/apiserver"
	"github.com/leat-dev/leat/pkg/apiserver/archive"
	_ "github.com/leat-dev/leat/pkg/controller" // registers the metrics of controllers
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/fake"
	"github.com/leat-dev/leat/pkg/scheduler"
	"github.com/leat-dev/leat/pkg/worker/agent"
	"github.com/leat-dev/leat/pkg/worker/sandbox"
	"github.com/leat-dev/leat/pkg/worker/spool"
	"github.com/leat-dev/leat/test/kit/host"
)

// descriptions is a prometheus.Registerer that records the labels of metrics by name.
type descriptions map[string]string

func (d descriptions) Register(c prometheus.Collector) error {
	all := make(chan *prometheus.Desc)
	go func() {
		defer close(all)
		c.Describe(all)
	}()
	for desc := range all {
		// A Desc has no accessors. Its text has the name and the labels.
		parts := regexp.MustCompile(`fqName: "([^"]*)".*variableLabels: \{([^}]*)\}`).FindStringSubmatch(desc.String())
		if parts != nil && strings.HasPrefix(parts[1], "leat_") {
			labels := strings.FieldsFunc(parts[2], func(r rune) bool { return r == ',' || r == ' ' })
			slices.Sort(labels)
			d[parts[1]] = strings.Join(labels, " ")
		}
	}
	return nil
}

func (d descriptions) MustRegister(all ...prometheus.Collector) {
	for _, c := range all {
		_ = d.Register(c) // Register returns no errors
	}
}

func (d descriptions) Unregister(prometheus.Collector) bool { return true }

// metricRow matches a metric on the page: its name, type, labels and meaning.
var metricRow = regexp.MustCompile("(?m)^\\| `(leat_[a-z_]+)` \\| (counter|gauge|histogram) \\|([^|]*)\\|[^|]+\\|$")

// TestAllMetricsAreDocumented checks that docs/reference/metrics.md has the metrics that the programs register, and no
// others.
func TestAllMetricsAreDocumented(t *testing.T) {
	registered := descriptions{}
	registry, ok := ctrlmetrics.Registry.(prometheus.Collector)
	if !ok {
		t.Fatalf("the registry of the controllers is a %T, which does not describe itself", ctrlmetrics.Registry)
	}
	registered.MustRegister(registry)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := scheduler.New(&fake.Clientset{}, scheduler.WithMetrics(registered)).Run(canceled); err != nil {
		t.Fatal(err)
	}
	agent.New(&fake.Clientset{}, sandbox.NewHost(), agent.Options{Registerer: registered})
	spool.NewMetrics(registered)
	registered.MustRegister(apiserver.CertificateExpiration)
	registered.MustRegister(archive.Metrics...)

	root, err := host.RepositoryRoot()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "reference", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, match := range metricRow.FindAllStringSubmatch(string(page), -1) {
		labels := strings.FieldsFunc(match[3], func(r rune) bool { return strings.ContainsRune("`, ", r) })
		slices.Sort(labels)
		documented[match[1]] = strings.Join(labels, " ")
	}
	for _, name := range slices.Sorted(maps.Keys(registered)) {
		labels, ok := documented[name]
		switch {
		case !ok:
			t.Errorf("%s{%s} is not in docs/reference/metrics.md", name, registered[name])
		case labels != registered[name]:
			t.Errorf("%s has the labels %q, and %q in docs/reference/metrics.md", name, registered[name], labels)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(documented)) {
		if _, ok := registered[name]; !ok {
			t.Errorf("%s is in docs/reference/metrics.md, and nothing registers it", name)
		}
	}
	for _, name := range regexp.MustCompile("`(leat_[a-z_]+)`").FindAllStringSubmatch(string(page), -1) {
		if _, ok := registered[name[1]]; !ok {
			t.Errorf("docs/reference/metrics.md mentions %s, and nothing registers it", name[1])
		}
	}
}
