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

package pools

import (
	"github.com/prometheus/client_golang/prometheus"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/leat-dev/leat/pkg/controller/internal/metrics"
)

// docs/reference/metrics.md describes the metrics. A pool has labels of its own, like a queue.
var (
	poolWorkers = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: metrics.PoolWorkers,
		Help: "Workers of a pool that is scaled: wanted, as many as the tasks need within its limits; ready; and missing, which should have registered.",
	}, []string{"namespace", "pool", "state"})

	pools = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: metrics.Pools,
		Help: "Pools of a namespace by state: scaled; invalid, with wrong settings; forbidden, without a RoleBinding; and foreign, which somebody else scales.",
	}, []string{"namespace", "state"})

	poolScalings = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metrics.PoolScalingsTotal,
		Help: "Changes of the number of workers of pools, by direction: out and in.",
	}, []string{"direction"})
)

func init() {
	ctrlmetrics.Registry.MustRegister(poolWorkers, pools, poolScalings)
}

// poolState is whether a pool is scaled, and why not.
type poolState string

const (
	stateScaled    poolState = "scaled"
	stateInvalid   poolState = "invalid"
	stateForbidden poolState = "forbidden"
	stateForeign   poolState = "foreign"
)

var poolStates = []poolState{stateScaled, stateInvalid, stateForbidden, stateForeign}

// report is what the metrics show of a pool.
type report struct {
	state                  poolState
	wanted, ready, missing int
}

// newReport returns the report of a pool that is scaled.
func newReport(d *decision, replicas int) report {
	return report{state: stateScaled, wanted: d.wanted, ready: d.ready, missing: replicas - d.ready}
}

// recordPools records the pools of a namespace by name.
func recordPools(namespace string, reports map[string]report) {
	poolWorkers.DeletePartialMatch(prometheus.Labels{"namespace": namespace})
	pools.DeletePartialMatch(prometheus.Labels{"namespace": namespace})
	if len(reports) == 0 {
		return
	}
	count := map[poolState]int{}
	for name, r := range reports {
		count[r.state]++
		if r.state != stateScaled {
			continue
		}
		poolWorkers.WithLabelValues(namespace, name, "wanted").Set(float64(r.wanted))
		poolWorkers.WithLabelValues(namespace, name, "ready").Set(float64(r.ready))
		poolWorkers.WithLabelValues(namespace, name, "missing").Set(float64(r.missing))
	}
	for _, state := range poolStates {
		pools.WithLabelValues(namespace, string(state)).Set(float64(count[state]))
	}
}
