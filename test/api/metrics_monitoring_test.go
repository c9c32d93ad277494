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
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	cachermetrics "k8s.io/apiserver/pkg/storage/cacher/metrics"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/metrics/legacyregistry"
	"sigs.k8s.io/yaml"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// testMetrics checks that the programs, etcd and the host serve all metrics of alerts and the dashboard to a service
// account with the rights of components/metrics.
func testMetrics(t *testing.T, e *kit.Env) {
	const namespace, account = "default", "prometheus"
	ctx := t.Context()
	kit.Check(t, e.Host.Apply(ctx, filepath.Join(repositoryRoot(t), "config", "components", "metrics", "rbac.yaml")))
	hostConfig := kit.Must(clientcmd.BuildConfigFromFlags("", e.Host.AdminKubeconfig))(t)
	admin := kubernetes.NewForConfigOrDie(hostConfig)
	kit.Must(admin.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{}))(t)
	token := func(account string) string {
		kubeconfig := kit.Must(e.Host.ServiceAccountKubeconfig(namespace, account))(t)
		return kit.Must(clientcmd.BuildConfigFromFlags("", kubeconfig))(t).BearerToken
	}
	port := strconv.Itoa(kit.Must(host.FreePort())(t))
	e.StartManager(t, "one", "--metrics-bind-address=0.0.0.0:"+port)

	server := rest.AnonymousClientConfig(e.Direct(t, "nobody"))
	server.BearerToken = token(account)
	manager := &rest.Config{Host: "https://127.0.0.1:" + port, BearerToken: token(account), TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	for name, config := range map[string]*rest.Config{"leat-apiserver": server, "leat-controller-manager": manager} {
		kit.Eventually(t, name+" refuses a service account without rights", func(ctx context.Context) error {
			unauthorized := rest.CopyConfig(config)
			unauthorized.BearerToken = token("default")
			if _, err := scrape(ctx, unauthorized); err == nil || !strings.Contains(err.Error(), "403") {
				return fmt.Errorf("got %v, want 403", err)
			}
			return nil
		})
	}
	kit.Must(admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "leat:metrics-reader"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "leat:metrics-reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account}},
	}, metav1.CreateOptions{}))(t)

	// Metrics with labels exist only with a value.
	tasks := kit.Client(t, e.Admin(t)).BatchV1alpha1().Tasks(namespace)
	watch := kit.Must(tasks.Watch(ctx, metav1.ListOptions{}))(t)
	defer watch.Stop()
	kit.Must(tasks.Create(ctx, &v1alpha1.Task{
		ObjectMeta: metav1.ObjectMeta{Name: "task"}, Spec: v1alpha1.TaskSpec{Command: []string{"true"}},
	}, metav1.CreateOptions{}))(t)
	<-watch.ResultChan()

	etcd := &rest.Config{Host: e.Etcd.Endpoint, TLSClientConfig: rest.TLSClientConfig{
		CAFile: e.Etcd.CAFile, CertFile: e.Etcd.CertFile, KeyFile: e.Etcd.KeyFile,
	}}
	// Metrics that count faults have no value in the server. This process registers them as the server does.
	cachermetrics.Register()
	cachermetrics.TerminatedWatchersCounter.WithLabelValues(v1alpha1.GroupName, "tasks").Inc()
	wanted := referencedMetrics(t)
	kit.Eventually(t, "all metrics of alerts and the dashboard are served", func(ctx context.Context) error {
		served := documentedSamples(t)
		for _, name := range []string{
			"up",                                                               // of Prometheus itself
			"kube_cronjob_created", "kube_cronjob_status_last_successful_time", // of kube-state-metrics
		} {
			served[name] = true
		}
		for _, config := range []*rest.Config{server, manager, etcd, hostConfig} {
			text, err := scrape(ctx, config)
			if err != nil {
				return err
			}
			addSampleNames(text, served)
		}
		addSampleNames(gatherOwn(t), served)
		var missing []string
		for name, where := range wanted {
			if !served[name] {
				missing = append(missing, name+" of "+where)
			}
		}
		if slices.Sort(missing); len(missing) > 0 {
			return fmt.Errorf("got no metrics %q", missing)
		}
		return nil
	})
}

// TestServiceMonitorsSelectServices checks that every ServiceMonitor selects a Service: one that selects nothing
// reports no error.
func TestServiceMonitorsSelectServices(t *testing.T) {
	dir := t.TempDir()
	config := kit.Must(filepath.Rel(dir, filepath.Join(repositoryRoot(t), "config")))(t)
	kit.Check(t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(`
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [`+config+`/default]
components: [`+config+`/components/monitoring]
`), 0o600))
	kubectl := exec.CommandContext(t.Context(), filepath.Join(repositoryRoot(t), "bin", "host", "kubectl"), "kustomize", dir)
	kubectl.Stderr = os.Stderr
	manifests := kit.Must(kubectl.Output())(t)
	type object struct {
		Kind     string
		Metadata metav1.ObjectMeta
		Data     map[string]string
		Spec     struct {
			Selector  json.RawMessage
			Ports     []struct{ Name string }
			Endpoints []struct{ Port string }
		}
	}
	ports := map[string]labels.Set{} // "service/port": the labels of the Service
	var monitors []object
	dashboard := ""
	for _, document := range strings.Split(string(manifests), "\n---\n") {
		var o object
		kit.Check(t, yaml.Unmarshal([]byte(document), &o))
		switch o.Kind {
		case "Service":
			for _, port := range o.Spec.Ports {
				ports[o.Metadata.Name+"/"+port.Name] = o.Metadata.Labels
			}
		case "ServiceMonitor":
			monitors = append(monitors, o)
		case "ConfigMap":
			if o.Metadata.Labels["grafana_dashboard"] != "" {
				dashboard = o.Data["leat.json"]
			}
		}
	}
	if len(monitors) == 0 || !json.Valid([]byte(dashboard)) {
		t.Fatalf("got %d ServiceMonitors and a dashboard of %d bytes, want both", len(monitors), len(dashboard))
	}
	for _, monitor := range monitors {
		var selector metav1.LabelSelector
		kit.Check(t, json.Unmarshal(monitor.Spec.Selector, &selector))
		selects := kit.Must(metav1.LabelSelectorAsSelector(&selector))(t)
		for _, endpoint := range monitor.Spec.Endpoints {
			// The ServiceMonitor has the name of its Service, which is the value of the label job in alerts.
			name := monitor.Metadata.Name + "/" + endpoint.Port
			if set, ok := ports[name]; !ok || !selects.Matches(set) {
				t.Errorf("ServiceMonitor %s selects %s on port %s, and the Service has the labels %v (exists: %t)",
					monitor.Metadata.Name, selects, endpoint.Port, set, ok)
			}
		}
	}
}

// referencedMetrics returns the metrics of alerts and the dashboard, each with a place that uses it.
func referencedMetrics(t *testing.T) map[string]string {
	t.Helper()
	var alerts struct {
		Spec struct {
			Groups []struct {
				Rules []struct{ Alert, Expr string }
			}
		}
	}
	kit.Check(t, yaml.Unmarshal(readFile(t, "config", "components", "monitoring", "alerts.yaml"), &alerts))
	names := map[string]string{}
	for _, group := range alerts.Spec.Groups {
		for _, rule := range group.Rules {
			for _, name := range metricNames(rule.Expr) {
				names[name] = "alert " + rule.Alert
			}
		}
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	kit.Check(t, json.Unmarshal(readFile(t, "artifacts", "dashboards", "leat.json"), &dashboard))
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			for _, name := range metricNames(target.Expr) {
				names[name] = "panel " + panel.Title
			}
		}
	}
	if len(names) < 20 {
		t.Fatalf("got %d metrics in alerts and the dashboard, want at least 20", len(names))
	}
	return names
}

var (
	nonMetrics = regexp.MustCompile(`"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)`)
	metricName = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*\s*\(?`)
)

// metricNames returns the names of the metrics in a PromQL expression. It supports the syntax that our expressions use.
func metricNames(expr string) []string {
	var names []string
	// Remove strings first: they may contain braces.
	for expr != nonMetrics.ReplaceAllString(expr, "") {
		expr = nonMetrics.ReplaceAllString(expr, "")
	}
	for _, name := range metricName.FindAllString(expr, -1) {
		name = strings.TrimSpace(name)
		if !strings.HasSuffix(name, "(") && !slices.Contains([]string{"and", "or", "unless", "bool", "offset"}, name) {
			names = append(names, name)
		}
	}
	return names
}

func TestMetricNames(t *testing.T) {
	for expr, want := range map[string][]string{
		`up{job="a"} == 1`: {"up"},
		`absent(a_b{x="}"} == 1) or sum by (le, pod) (rate(c[5m])) / d > 1000`:                   {"a_b", "c", "d"},
		`max by (namespace) (e) > 1800 and on (namespace) sum by (namespace) (f{state="g"}) > 0`: {"e", "f"},
		`histogram_quantile(0.99, sum by (le) (rate(h_bucket{verb=~"GET|POST"}[5m])))`:           {"h_bucket"},
		"sum(rate(i{a=\"b\"}[5m]))\n  / sum(rate(j{a=\"b\",\n  c!=\"d\"}[5m])) > 0.01 - time()":  {"i", "j"},
	} {
		if got := metricNames(expr); !slices.Equal(got, want) {
			t.Errorf("metricNames(%s) = %q, want %q", expr, got, want)
		}
	}
}

// documentedSamples returns the sample names of all metrics in docs/reference/metrics.md. Many have no value in a test,
// and TestAllMetricsAreDocumented checks that the programs register them.
func documentedSamples(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, match := range metricRow.FindAllStringSubmatch(string(readFile(t, "docs", "reference", "metrics.md")), -1) {
		if match[2] == "histogram" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				names[match[1]+suffix] = true
			}
		} else {
			names[match[1]] = true
		}
	}
	return names
}

// addSampleNames adds the sample names of metrics in text format to names.
func addSampleNames(text string, names map[string]bool) {
	for line := range strings.Lines(text) {
		if end := strings.IndexAny(line, "{ "); end > 0 && line[0] != '#' {
			names[line[:end]] = true
		}
	}
}

// gatherOwn returns the metrics of the legacy registry of this process.
func gatherOwn(t *testing.T) string {
	t.Helper()
	response := httptest.NewRecorder()
	promhttp.HandlerFor(legacyregistry.DefaultGatherer, promhttp.HandlerOpts{}).ServeHTTP(response, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return response.Body.String()
}

// scrape gets /metrics.
func scrape(ctx context.Context, config *rest.Config) (string, error) {
	got, err := kit.TryDo(ctx, config, http.MethodGet, "/metrics", "")
	if err == nil && got.Code != http.StatusOK {
		err = fmt.Errorf("%s: got %.200s", config.Host, got)
	}
	return got.Body, err
}

func readFile(t *testing.T, path ...string) []byte {
	t.Helper()
	return kit.Must(os.ReadFile(filepath.Join(append([]string{repositoryRoot(t)}, path...)...)))(t)
}

func repositoryRoot(t *testing.T) string {
	t.Helper()
	return kit.Must(host.RepositoryRoot())(t)
}
