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

package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/klog/v2"
)

// noMetrics is the address that disables metrics.
const noMetrics = "0"

// validateMetricsAddress returns an error unless address is an IP address and a port, or "0". An empty host means all
// addresses of the machine, or of the pod.
func validateMetricsAddress(address string) error {
	if address == noMetrics {
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || host != "" && host != "localhost" && net.ParseIP(host) == nil {
		return errors.New("must be an IP address and a port, like 127.0.0.1:9090, or :9090 for all addresses, or 0 for none")
	}
	return nil
}

// serveMetrics serves the metrics of the registry, the runtime and the process until stop is called.
func serveMetrics(ctx context.Context, address string, registry *prometheus.Registry) (stop func(), err error) {
	if address == noMetrics {
		return func() {}, nil
	}
	// The metrics of the garbage collector include the live heap, which the default ones lack.
	registry.MustRegister(
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(collectors.MetricsGC)),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			klog.FromContext(ctx).Error(err, "Failed to serve metrics")
		}
	}()
	return func() { _ = server.Close() }, nil
}
