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
	"testing"

	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/measure"
)

// scrape returns the metrics of a server. It waits until the server responds.
func scrape(t testing.TB, e *kit.Env) measure.Metrics {
	t.Helper()
	config := e.Direct(t, "root")
	client := kit.Must(rest.HTTPClientFor(config))(t)
	var metrics measure.Metrics
	kit.Eventually(t, "metrics are served", func(ctx context.Context) (err error) {
		metrics, err = measure.ReadMetrics(ctx, client, config.Host+"/metrics")
		return err
	})
	return metrics
}

// cacheInitializations returns how often the watch caches of Leat's kinds have been initialized.
func cacheInitializations(m measure.Metrics) float64 {
	return m.Sum("apiserver_watch_cache_initializations_total", `group="batch.leat.dev"`)
}

// residentBytes returns the resident memory of a process.
func residentBytes(t testing.TB, pid int) int64 {
	t.Helper()
	return int64(kit.Must(measure.Memory(pid, "VmRSS"))(t) * (1 << 20))
}
