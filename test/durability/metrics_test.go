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
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/leat-dev/leat/test/kit"
)

// metrics is what a server serves at /metrics.
type metrics string

func scrape(t testing.TB, e *kit.Env) metrics {
	t.Helper()
	client := kit.Client(t, e.Direct(t, "root")).Discovery().RESTClient()
	var body []byte
	kit.Eventually(t, "metrics are served", func(ctx context.Context) (err error) {
		body, err = client.Get().AbsPath("/metrics").Do(ctx).Raw()
		return err
	})
	return metrics(body)
}

// sum returns the sum of the series with the name and the label.
func (m metrics) sum(name, label string) float64 {
	var sum float64
	for line := range strings.Lines(string(m)) {
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

// cacheInitializations returns how often the watch caches of Leat's kinds have been initialized.
func (m metrics) cacheInitializations() float64 {
	return m.sum("apiserver_watch_cache_initializations_total", `group="batch.leat.dev"`)
}

// residentBytes returns the resident memory of a process.
func residentBytes(t testing.TB, pid int) int64 {
	t.Helper()
	fields := strings.Fields(string(kit.Must(os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid)))(t)))
	return kit.Must(strconv.ParseInt(fields[1], 10, 64))(t) * int64(os.Getpagesize())
}
