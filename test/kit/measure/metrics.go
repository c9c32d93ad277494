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

package measure

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Metrics has the values of a metrics page by series, as "name{label="value"}".
type Metrics map[string]float64

// ReadMetrics requests a metrics page.
func ReadMetrics(ctx context.Context, client *http.Client, url string) (Metrics, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", url, response.Status)
	}
	values := Metrics{}
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		name, value, ok := cutLast(lines.Text(), " ")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		if values[name], err = strconv.ParseFloat(value, 64); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", url, lines.Text(), err)
		}
	}
	return values, lines.Err()
}

func cutLast(s, separator string) (before, after string, ok bool) {
	i := strings.LastIndex(s, separator)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(separator):], true
}

// Label returns the value of a label of a series.
func Label(name, label string) string {
	_, rest, ok := strings.Cut(name, label+`="`)
	if !ok {
		return ""
	}
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

// Sum returns the sum of the series of a metric that have all the labels, such as `code="507"`.
func (m Metrics) Sum(name string, labels ...string) float64 {
	var sum float64
	for series, value := range m {
		if (series == name || strings.HasPrefix(series, name+"{")) &&
			!slices.ContainsFunc(labels, func(label string) bool { return !strings.Contains(series, label) }) {
			sum += value
		}
	}
	return sum
}

// Quantile estimates a quantile of a histogram without other labels, like histogram_quantile of Prometheus. It returns
// 0 for an empty histogram.
func (m Metrics) Quantile(name string, q float64) float64 {
	type bucket struct{ bound, count float64 }
	var buckets []bucket
	for key, count := range m {
		if !strings.HasPrefix(key, name+"_bucket{") {
			continue
		}
		bound, err := strconv.ParseFloat(Label(key, "le"), 64)
		if err != nil {
			bound = math.Inf(1)
		}
		buckets = append(buckets, bucket{bound, count})
	}
	slices.SortFunc(buckets, func(a, b bucket) int { return cmp.Compare(a.bound, b.bound) })
	var below bucket
	for _, b := range buckets {
		if want := q * buckets[len(buckets)-1].count; b.count >= want && b.count > below.count {
			if math.IsInf(b.bound, 1) {
				return below.bound
			}
			return below.bound + (b.bound-below.bound)*(want-below.count)/(b.count-below.count)
		}
		below = b
	}
	return 0
}
