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

package namespace

import (
	"github.com/prometheus/client_golang/prometheus"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/leat-dev/leat/pkg/controller/internal/metrics"
)

// docs/reference/metrics.md describes all metrics.
var (
	sweeps = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metrics.NamespaceSweepsTotal,
		Help: "Sweeps for objects whose namespace does not exist.",
	}, []string{"result"})

	orphansDeleted = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metrics.NamespaceOrphansDeletedTotal,
		Help: "Objects deleted because their namespace does not exist.",
	}, []string{"resource"})
)

func init() { ctrlmetrics.Registry.MustRegister(sweeps, orphansDeleted) }
