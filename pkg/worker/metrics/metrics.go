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

// Package metrics registers the metrics of workers.
package metrics

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// RegisterOrGet registers a collector. It returns the existing one if another worker of this process has registered it.
// Without a registerer it returns the collector.
func RegisterOrGet[C prometheus.Collector](registerer prometheus.Registerer, collector C) C {
	if registerer == nil {
		return collector
	}
	err := registerer.Register(collector)
	if registered := (prometheus.AlreadyRegisteredError{}); errors.As(err, &registered) {
		return registered.ExistingCollector.(C)
	}
	if err != nil {
		panic(err) // the collector is invalid
	}
	return collector
}
