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

package product

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// TestStandalone runs the suites against one leat up.
func TestStandalone(t *testing.T) {
	t.Parallel()
	metrics := "127.0.0.1:" + freePort(t)
	e := kit.Standalone(t, upFlags(metrics)...)
	t.Run("Up", func(t *testing.T) { up(t, e, metrics) })
	t.Run("Together", func(t *testing.T) {
		runSuites(t, map[string]func(*testing.T){
			"CLI":       func(t *testing.T) { cliStandalone(t, e) },
			"Days":      func(t *testing.T) { daysStandalone(t, e) },
			"Errors":    func(t *testing.T) { upErrors(t, e) },
			"Logs":      func(t *testing.T) { logsStandalone(t, e) },
			"TaskSet":   func(t *testing.T) { taskSetStandalone(t, e) },
			"Scheduler": func(t *testing.T) { schedulerStandalone(t, e) },
		})
	})
	t.Run("all killed at once", func(t *testing.T) {
		s := &taskSetSuite{newFixture(t, e, "default")}
		s.allKilled(t)
	})
}

// TestAggregated runs the suites against one host cluster, with two controller managers. The first one leads while the
// suites run. Then the managers are frozen and killed.
func TestAggregated(t *testing.T) {
	t.Parallel()
	clientCAFile, args := kit.WorkerClient(t)
	_, archive := kit.ArchiveInS3(t)
	e := kit.Aggregated(t, slices.Concat(args, archive, []string{"--request-timeout=" + requestTimeout.String()})...)
	one := startManager(t, e, "one")
	kit.Eventually(t, "the first manager leads", func(ctx context.Context) error {
		_, err := leader(ctx, t, e)
		return err
	})
	two := startManager(t, e, "two", "--leat-server=") // without the flag, it connects through the aggregator
	t.Run("Together", func(t *testing.T) {
		runSuites(t, map[string]func(*testing.T){
			"CLI":       func(t *testing.T) { cliAggregated(t, e) },
			"Logs":      func(t *testing.T) { logsAggregated(t, e, clientCAFile) },
			"TaskSet":   func(t *testing.T) { taskSetAggregated(t, e) },
			"Scheduler": func(t *testing.T) { schedulerAggregated(t, e) },
		})
	})
	t.Run("health and metrics", func(t *testing.T) { healthAndMetrics(t, one, two) })
	t.Run("metrics of the scheduler", func(t *testing.T) { schedulerMetrics(t, one.metrics) })
	t.Run("metrics are authorized", func(t *testing.T) { metricsAreAuthorized(t, e) })
	t.Run("frozen leader", func(t *testing.T) { newSchedulerSuite(t, e, 4).frozenLeader(t, one.Process, two.Process) })
	t.Run("controllers killed", func(t *testing.T) {
		newTaskSetSuite(t, e).controllersKilled(t, []manager{one, two})
	})
}

// runSuites runs suites side by side, until all have ended.
func runSuites(t *testing.T, suites map[string]func(*testing.T)) {
	for name, run := range suites {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t)
		})
	}
}

// manager is a leat-controller-manager with a port of its own for metrics and for health.
type manager struct {
	*host.Process
	metrics, health string
}

// startManager starts a manager that takes over within seconds of the end of the leader.
func startManager(t *testing.T, e *kit.Env, name string, args ...string) manager {
	t.Helper()
	m := manager{metrics: freePort(t), health: freePort(t)}
	m.Process = e.StartManager(t, name, append([]string{
		"--leader-elect-lease-duration=5s", "--leader-elect-renew-deadline=4s", "--leader-elect-retry-period=500ms",
		"--metrics-bind-address=127.0.0.1:" + m.metrics, "--health-probe-bind-address=127.0.0.1:" + m.health,
	}, args...)...)
	return m
}

// leader returns the identity of the manager that holds the lease.
func leader(ctx context.Context, t *testing.T, e *kit.Env) (string, error) {
	t.Helper()
	lease, err := e.HostClient(t).CoordinationV1().Leases("leat-system").Get(ctx, "leat-controller-manager", metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if holder := ptr.Deref(lease.Spec.HolderIdentity, ""); holder != "" {
		return holder, nil
	}
	return "", errors.New("no manager holds the lease")
}

// healthAndMetrics checks that all managers serve health and metrics, and that only the leader has reconciled.
func healthAndMetrics(t *testing.T, managers ...manager) {
	leading := 0
	for _, m := range managers {
		for _, path := range []string{"/healthz", "/readyz"} {
			if answer := get(t, "http://127.0.0.1:"+m.health+path); answer != "ok" {
				t.Errorf("%s: got %q, want ok", path, answer)
			}
		}
		answer := get(t, "http://127.0.0.1:"+m.metrics+"/metrics")
		if !strings.Contains(answer, "\nleader_election_master_status{") {
			t.Errorf("/metrics has no leader_election_master_status: %s", answer)
		}
		if strings.Contains(answer, `controller_runtime_reconcile_total{controller="taskset",result="`) {
			leading++
		}
	}
	if leading != 1 {
		t.Errorf("%d of %d managers have reconciled sets, want one", leading, len(managers))
	}
}

// metricsAreAuthorized serves metrics on all addresses: they are refused over HTTP, and without a token.
func metricsAreAuthorized(t *testing.T, e *kit.Env) {
	port := freePort(t)
	e.StartManager(t, "three", "--metrics-bind-address=0.0.0.0:"+port, "--health-probe-bind-address=0")
	for url, want := range map[string]string{
		"http://127.0.0.1:" + port + "/metrics": "HTTP request to an HTTPS server", "https://127.0.0.1:" + port + "/metrics": "Unauthorized",
	} {
		var answer string
		kit.Eventually(t, url+" answers", func(context.Context) error {
			if answer = get(t, url); strings.HasPrefix(answer, "unreachable") {
				return errors.New(answer)
			}
			return nil
		})
		if !strings.Contains(answer, want) {
			t.Errorf("%s: want %q, got %s", url, want, answer)
		}
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	return strconv.Itoa(kit.Must(host.FreePort())(t))
}

// get returns the body of a response, whatever its status and the certificate of the server.
func get(t *testing.T, url string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		return "unreachable: " + err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	kit.Check(t, err)
	return string(body)
}
