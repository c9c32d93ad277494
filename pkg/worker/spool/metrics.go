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

package spool

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leat-dev/leat/pkg/worker/metrics"
)

// Metrics are the metrics of the spools that share a registerer. No label names a set or a worker.
type Metrics struct {
	uploads      *prometheus.CounterVec
	droppedBytes prometheus.Counter
	unsent       *unsentCollector
}

// NewMetrics returns the metrics of a spool, registered unless registerer is nil.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	return &Metrics{
		uploads: metrics.RegisterOrGet(registerer, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "leat_worker_archive_uploads_total",
			Help: "Uploads of segments to the archive, by result (stored, refused, failed). Those that failed are sent again.",
		}, []string{"result"})),
		droppedBytes: metrics.RegisterOrGet(registerer, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "leat_worker_archive_dropped_bytes_total",
			Help: "Bytes of segments that were removed before they were in the archive, because the spool was full " +
				"or there was no archive any more.",
		})),
		unsent: metrics.RegisterOrGet(registerer, &unsentCollector{
			segments: prometheus.NewDesc("leat_worker_archive_unsent_segments",
				"Segments on the disk of the worker that are not in the archive yet.", nil, nil),
			bytes: prometheus.NewDesc("leat_worker_archive_unsent_bytes",
				"Bytes of the segments that are not in the archive yet.", nil, nil),
			oldest: prometheus.NewDesc("leat_worker_archive_oldest_unsent_age_seconds",
				"Age of the oldest segment that is not in the archive yet, 0 if there is none. A segment is sent ten minutes after "+
					"its first attempt at the latest.", nil, nil),
			refused: prometheus.NewDesc("leat_worker_archive_refused_segments",
				"Segments on the disk of the worker that the server has refused.", nil, nil),
			limit: prometheus.NewDesc("leat_worker_archive_spool_limit_bytes",
				"Bytes that the segments on the disk of the worker may have, --archive-max-spool-size. To make room, those that are not "+
					"in the archive yet are removed, the oldest first.", nil, nil),
			spools: map[*Spool]struct{}{},
		}),
	}
}

// unsentCollector collects what the open spools hold.
type unsentCollector struct {
	segments, bytes, oldest, refused, limit *prometheus.Desc

	mu     sync.Mutex
	spools map[*Spool]struct{}
}

var _ prometheus.Collector = &unsentCollector{}

func (c *unsentCollector) add(s *Spool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spools[s] = struct{}{}
}

func (c *unsentCollector) remove(s *Spool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.spools, s)
}

// Describe implements prometheus.Collector.
func (c *unsentCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{c.segments, c.bytes, c.oldest, c.refused, c.limit} {
		descs <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *unsentCollector) Collect(metrics chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var segments, refused int
	var bytes, limit int64
	var oldest time.Duration
	for s := range c.spools {
		s.mu.Lock()
		segments += len(s.segments)
		refused += len(s.refused)
		limit += s.options.MaxSize
		for _, seg := range s.segments {
			bytes += seg.size
			oldest = max(oldest, time.Since(seg.since))
		}
		s.mu.Unlock()
	}
	metrics <- prometheus.MustNewConstMetric(c.segments, prometheus.GaugeValue, float64(segments))
	metrics <- prometheus.MustNewConstMetric(c.bytes, prometheus.GaugeValue, float64(bytes))
	metrics <- prometheus.MustNewConstMetric(c.oldest, prometheus.GaugeValue, oldest.Seconds())
	metrics <- prometheus.MustNewConstMetric(c.refused, prometheus.GaugeValue, float64(refused))
	metrics <- prometheus.MustNewConstMetric(c.limit, prometheus.GaugeValue, float64(limit))
}
