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

package durability

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"github.com/leat-dev/leat/test/kit"
)

// page is what a server serves as metrics.
type page string

// scrape reads the metrics of a server with the rights that are shipped for it.
func scrape(t testing.TB, c *cluster, e *kit.Env) page {
	t.Helper()
	kit.Check(t, bindClusterRole(t.Context(), c, "root", "cluster-admin"))
	client := kit.Client(t, e.Direct(t, "root")).Discovery().RESTClient()
	var body []byte
	kit.Eventually(t, "metrics are served", func(ctx context.Context) (err error) {
		body, err = client.Get().AbsPath("/metrics").Do(ctx).Raw()
		return err
	})
	return page(body)
}

// sum adds up the series of a name with a label.
func (p page) sum(name, label string) float64 {
	var sum float64
	for line := range strings.Lines(string(p)) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if !ok || !strings.HasPrefix(series, name+"{") || !strings.Contains(series, label) {
			continue
		}
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			sum += n
		}
	}
	return sum
}
