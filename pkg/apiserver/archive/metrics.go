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

package archive

import (
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/component-base/metrics/legacyregistry"
)

// The metrics of all archives of this process.
var (
	storedSegments = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "leat_apiserver_archive_segments_stored_total",
		Help: "Number of segments that were stored in the archive.",
	})
	storedBytes = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "leat_apiserver_archive_bytes_stored_total",
		Help: "Size of the segments that were stored in the archive.",
	})
	refusedSegments = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "leat_apiserver_archive_segments_refused_total",
		Help: "Number of segments that were not stored, by reason: busy, rate, large, slow, invalid, conflict, store.",
	}, []string{"reason"})
	uploadsInFlight = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "leat_apiserver_archive_uploads_in_flight",
		Help: "Number of segments that are being received or stored.",
	})
	storeErrors = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "leat_apiserver_archive_store_errors_total",
		Help: "Number of failed requests to the store of the archive, by operation: put, list, read.",
	}, []string{"operation"})
	storeReads = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "leat_apiserver_archive_read_requests_total",
		Help: "Number of requests that read from the store of the archive.",
	})
	storeReadBytes = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "leat_apiserver_archive_read_bytes_total",
		Help: "Number of bytes that were read from the store of the archive.",
	})
)

// Metrics are all metrics of this package.
var Metrics = []prometheus.Collector{
	storedSegments, storedBytes, refusedSegments, uploadsInFlight, storeErrors, storeReads, storeReadBytes,
}

func init() {
	for _, reason := range []string{"busy", "rate", "large", "slow", "invalid", "conflict", "store"} {
		refusedSegments.WithLabelValues(reason)
	}
	for _, operation := range []string{"put", "list", "read"} {
		storeErrors.WithLabelValues(operation)
	}
	for _, metric := range Metrics {
		legacyregistry.RawMustRegister(metric)
	}
}
