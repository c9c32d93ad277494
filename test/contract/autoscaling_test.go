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

package contract

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/host"
)

const metricName, metricsGroup = "pending_files", "external.metrics.k8s.io"

// testAutoscaling: a HorizontalPodAutoscaler sets the parallelism of a task set by a metric of something else.
func testAutoscaling(t *testing.T, s *scene) {
	namespace := s.newNamespace(t, "autoscaling")
	value := serveMetric(t, s)
	value.Store(40)
	set := newTaskSet("set", "true")
	set.Spec.Completions, set.Spec.Parallelism = new(int32(1000)), new(int32(1))
	get(s.api.TaskSets(namespace).Create(t.Context(), set, metav1.CreateOptions{}))(t)

	everything := autoscalingv2.HPAScalingRules{
		StabilizationWindowSeconds: new(int32(0)),
		Policies:                   []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: 1000, PeriodSeconds: 1}},
	}
	scalers := s.cluster.AutoscalingV2().HorizontalPodAutoscalers(namespace)
	get(scalers.Create(t.Context(), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "set"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: batch.GroupVersion.String(), Kind: "TaskSet", Name: "set"},
			MinReplicas:    new(int32(1)), MaxReplicas: 8,
			Metrics: []autoscalingv2.MetricSpec{{
				Type: autoscalingv2.ExternalMetricSourceType,
				External: &autoscalingv2.ExternalMetricSource{
					Metric: autoscalingv2.MetricIdentifier{Name: metricName},
					Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: resource.NewQuantity(10, resource.DecimalSI)},
				},
			}},
			Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &everything, ScaleDown: &everything},
		},
	}, metav1.CreateOptions{}))(t)

	for _, step := range []struct {
		value int64
		want  int32
	}{{40, 4}, {75, 8}, {200, 8}, {20, 2}, {0, 1}} {
		value.Store(step.value)
		eventually(t, patience, fmt.Sprintf("the parallelism for a metric of %d is %d, as many tasks are active, and the autoscaler is content", step.value, step.want),
			func(ctx context.Context) error {
				set, err := s.api.TaskSets(namespace).Get(ctx, "set", metav1.GetOptions{})
				if err != nil {
					return err
				}
				scaler, err := scalers.Get(ctx, "set", metav1.GetOptions{})
				if err != nil {
					return err
				}
				if *set.Spec.Parallelism != step.want || set.Status.Active != step.want || scaler.Status.DesiredReplicas != step.want || !active(scaler) {
					return fmt.Errorf("it is %d, %d tasks are active, the autoscaler says %+v", *set.Spec.Parallelism, set.Status.Active, scaler.Status)
				}
				return nil
			})
	}
	must(t, scalers.Delete(t.Context(), "set", metav1.DeleteOptions{}))
}

// active tells whether an autoscaler can read the scale of its target, and the metric.
func active(scaler *autoscalingv2.HorizontalPodAutoscaler) bool {
	n := 0
	for _, condition := range scaler.Status.Conditions {
		if (condition.Type == autoscalingv2.AbleToScale || condition.Type == autoscalingv2.ScalingActive) && condition.Status == "True" {
			n++
		}
	}
	return n == 2
}

// serveMetric registers a server of external metrics that knows one, with the value that it gives.
func serveMetric(t *testing.T, s *scene) *atomic.Int64 {
	t.Helper()
	const service = "metrics.leat-system.svc"
	value := &atomic.Int64{}
	ca := get(pki.NewCA("metrics"))(t)
	cert, key, err := ca.IssueServer(service)
	must(t, err)
	version := metricsGroup + "/v1beta1"
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		var answer any
		switch {
		case request.URL.Path == "/apis/"+version:
			answer = metav1.APIResourceList{
				TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: version,
				APIResources: []metav1.APIResource{{Name: metricName, Namespaced: true, Kind: "ExternalMetricValueList", Verbs: metav1.Verbs{"get"}}},
			}
		case strings.HasSuffix(request.URL.Path, "/"+metricName):
			answer = map[string]any{
				"kind": "ExternalMetricValueList", "apiVersion": version, "metadata": map[string]any{},
				"items": []any{map[string]any{
					"metricName": metricName, "metricLabels": map[string]string{}, "timestamp": metav1.Now(), "value": strconv.FormatInt(value.Load(), 10),
				}},
			}
		default:
			http.NotFound(w, request)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer) // a caller that has gone needs no answer
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{get(tls.X509KeyPair(cert, key))(t)}}
	server.StartTLS()
	t.Cleanup(server.Close)

	manifest := filepath.Join(t.TempDir(), "metrics.yaml")
	must(t, os.WriteFile(manifest, fmt.Appendf(nil, `
apiVersion: v1
kind: Service
metadata: {name: metrics, namespace: leat-system}
spec: {type: ExternalName, externalName: localhost}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.%s}
spec:
  group: %[1]s
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  service: {name: metrics, namespace: leat-system, port: %d}
  caBundle: %s
`, metricsGroup, server.Listener.Addr().(*net.TCPAddr).Port, base64.StdEncoding.EncodeToString(ca.CertPEM())), 0o600))
	must(t, s.Host.Apply(t.Context(), manifest))
	t.Cleanup(func() { removed(t, s.Host, manifest) })
	return value
}

// removed deletes what is in a manifest, also at the end of a test.
func removed(t *testing.T, cp *host.ControlPlane, manifest string) {
	_, _, err := cp.Kubectl(context.WithoutCancel(t.Context()), cp.AdminKubeconfig, "delete", "--filename", manifest)
	must(t, err)
}
