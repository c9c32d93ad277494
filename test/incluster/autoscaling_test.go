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

package incluster

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/pool"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

const metricsGroup = "external.metrics.k8s.io"

// testTaskSetAutoscaling checks that a HorizontalPodAutoscaler sets the parallelism of a task set by an external
// metric.
func testTaskSetAutoscaling(t *testing.T, s *managed, value *atomic.Int64) {
	namespace := s.Namespace(t)
	value.Store(40)
	set := kit.NewTaskSet("set")
	set.Spec.Completions, set.Spec.Parallelism = new(int32(1000)), new(int32(1))
	kit.Must(s.api.TaskSets(namespace).Create(t.Context(), set, metav1.CreateOptions{}))(t)

	everything := autoscalingv2.HPAScalingRules{
		StabilizationWindowSeconds: new(int32(0)),
		Policies:                   []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: 1000, PeriodSeconds: 1}},
	}
	scalers := s.cluster.AutoscalingV2().HorizontalPodAutoscalers(namespace)
	kit.Must(scalers.Create(t.Context(), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "set"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "TaskSet", Name: "set"},
			MinReplicas:    new(int32(1)), MaxReplicas: 8,
			Metrics: []autoscalingv2.MetricSpec{{
				Type: autoscalingv2.ExternalMetricSourceType,
				External: &autoscalingv2.ExternalMetricSource{
					Metric: autoscalingv2.MetricIdentifier{Name: "pending_files"},
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
		kit.Eventually(t, fmt.Sprintf("a metric of %d sets parallelism and active tasks to %d, and the autoscaler is active", step.value, step.want),
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
					return fmt.Errorf("parallelism is %d, %d tasks are active, the status of the autoscaler is %+v", *set.Spec.Parallelism, set.Status.Active, scaler.Status)
				}
				return nil
			})
	}
	kit.Check(t, scalers.Delete(t.Context(), "set", metav1.DeleteOptions{}))
}

// active reports whether an autoscaler can read the scale of its target and the metric.
func active(scaler *autoscalingv2.HorizontalPodAutoscaler) bool {
	n := 0
	for _, condition := range scaler.Status.Conditions {
		if (condition.Type == autoscalingv2.AbleToScale || condition.Type == autoscalingv2.ScalingActive) && condition.Status == "True" {
			n++
		}
	}
	return n == 2
}

// testWorkerAutoscaling checks that the autoscaler of the example sets the replicas of the example's StatefulSet by the
// number of unfinished tasks.
func testWorkerAutoscaling(t *testing.T, s *managed) {
	const perWorker = 8
	namespace := s.Namespace(t)
	example := filepath.Join(kit.Must(host.RepositoryRoot())(t), "artifacts", "examples", "worker-pool")
	kit.Must(s.run(t, s.Host.AdminKubeconfig, "kubectl", "apply", "--namespace="+namespace, "--filename="+filepath.Join(example, "worker-pool.yaml")))(t)
	// As the autoscaler of the example says: the controller manager must not scale too.
	kit.Check(t, s.cluster.RbacV1().RoleBindings(namespace).Delete(t.Context(), pool.ScalerBinding("worker-pool"), metav1.DeleteOptions{}))
	kit.Must(s.run(t, s.Host.AdminKubeconfig, "kubectl", "apply", "--namespace="+namespace, "--filename="+filepath.Join(example, "autoscaler.yaml")))(t)
	scalers := s.cluster.AutoscalingV2().HorizontalPodAutoscalers(namespace)
	kit.Must(scalers.Patch(t.Context(), "worker-pool", types.MergePatchType,
		[]byte(`{"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}}`), metav1.PatchOptions{}))(t) // the test does not wait five minutes
	tasks := s.api.Tasks(namespace)
	follows := func(unfinished int32) {
		t.Helper()
		want := max(1, (unfinished+perWorker-1)/perWorker)
		kit.Eventually(t, fmt.Sprintf("the StatefulSet has %d replicas for %d tasks", want, unfinished), func(ctx context.Context) error {
			set, err := s.cluster.AppsV1().StatefulSets(namespace).Get(ctx, "worker-pool", metav1.GetOptions{})
			if err == nil && *set.Spec.Replicas != want {
				scaler, _ := scalers.Get(ctx, "worker-pool", metav1.GetOptions{})
				err = fmt.Errorf("it has %d replicas; the status of the autoscaler is %+v", *set.Spec.Replicas, scaler.Status)
			}
			return err
		})
	}
	for i := range 40 {
		kit.Must(tasks.Create(t.Context(), kit.NewTask(fmt.Sprintf("task-%d", i), "sh", "-c", "exec sleep 600"), metav1.CreateOptions{}))(t)
	}
	follows(40)
	// Running tasks count as well as pending tasks.
	s.worker(t, namespace, "worker")
	kit.Eventually(t, "a task is running", func(ctx context.Context) error {
		list, err := tasks.List(ctx, metav1.ListOptions{FieldSelector: "status.phase=Running"})
		if err == nil && len(list.Items) == 0 {
			err = errors.New("no task is running")
		}
		return err
	})
	for i := 10; i < 40; i++ {
		kit.Check(t, tasks.Delete(t.Context(), fmt.Sprintf("task-%d", i), metav1.DeleteOptions{}))
	}
	follows(10)
	kit.Check(t, tasks.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	follows(0)
}

// unfinished computes from the metrics of the scheduler what docs/how-to/autoscale.md lets Prometheus compute.
func (s *managed) unfinished(namespace string) (int64, error) {
	response, err := http.Get(s.managerMetrics)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	sum := int64(0)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		if strings.HasPrefix(name, "leat_pending_tasks{namespace=\""+namespace+"\"") || strings.HasPrefix(name, "leat_running_tasks{namespace=\""+namespace+"\"") {
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	return sum, nil
}

// serveMetrics registers a server of external metrics until the test ends. It returns the value of the metric
// pending_files; the other metric is computed by managed.unfinished.
func serveMetrics(t *testing.T, s *managed) (pendingFiles *atomic.Int64) {
	t.Helper()
	pendingFiles = &atomic.Int64{}
	metrics := map[string]func(namespace string) (int64, error){
		"pending_files":         func(string) (int64, error) { return pendingFiles.Load(), nil },
		"leat_unfinished_tasks": s.unfinished,
	}
	const service = "metrics.leat-system.svc"
	ca := kit.Must(pki.NewCA("metrics"))(t)
	cert, key, err := ca.IssueServer(service)
	kit.Check(t, err)
	version := metricsGroup + "/v1beta1"
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		var answer any
		switch {
		case request.URL.Path == "/apis/"+version:
			list := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: version}
			for name := range metrics {
				list.APIResources = append(list.APIResources, metav1.APIResource{Name: name, Namespaced: true, Kind: "ExternalMetricValueList", Verbs: metav1.Verbs{"get"}})
			}
			answer = list
		case metrics[path.Base(request.URL.Path)] != nil:
			name, namespace := path.Base(request.URL.Path), path.Base(path.Dir(request.URL.Path))
			value, err := metrics[name](namespace)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			answer = map[string]any{
				"kind": "ExternalMetricValueList", "apiVersion": version, "metadata": map[string]any{},
				"items": []any{map[string]any{
					"metricName": name, "metricLabels": map[string]string{}, "timestamp": metav1.Now(), "value": strconv.FormatInt(value, 10),
				}},
			}
		default:
			http.NotFound(w, request)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer) // an error means that the client has gone
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{kit.Must(tls.X509KeyPair(cert, key))(t)}}
	server.StartTLS()
	t.Cleanup(server.Close)

	manifest := filepath.Join(t.TempDir(), "metrics.yaml")
	kit.Check(t, os.WriteFile(manifest, fmt.Appendf(nil, `
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
	kit.Check(t, s.Host.Apply(t.Context(), manifest))
	t.Cleanup(func() { deleteManifest(t, s.Host, manifest) })
	kit.Eventually(t, "the host serves the metrics", func(ctx context.Context) error {
		got, err := kit.TryDo(ctx, s.Env.HostConfig(t), http.MethodGet, "/apis/"+version, "")
		if err == nil && got.Code != http.StatusOK {
			err = errors.New(got.String())
		}
		return err
	})
	return pendingFiles
}

// deleteManifest deletes the objects of a manifest. It also works in a cleanup of the test.
func deleteManifest(t *testing.T, cp *host.ControlPlane, manifest string) {
	_, _, err := cp.Kubectl(context.WithoutCancel(t.Context()), cp.AdminKubeconfig, "delete", "--filename", manifest)
	kit.Check(t, err)
}
