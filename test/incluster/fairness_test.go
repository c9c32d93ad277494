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
	"fmt"
	"net/http"
	"strings"
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/leat-dev/leat/test/kit"
)

// testFairness checks that requests of Leat's programs do not queue behind requests of users: the server's reviews and
// the leader's lease at the host, and requests of controllers and workers at the server have the priority levels that
// config/base assigns.
func testFairness(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	schemas := e.HostClient(t).FlowcontrolV1().FlowSchemas()
	account := func(name string) *rest.Config {
		return kit.Must(clientcmd.BuildConfigFromFlags("", kit.Must(e.Host.ServiceAccountKubeconfig("leat-system", name))(t)))(t)
	}
	const lease = "/apis/coordination.k8s.io/v1/namespaces/leat-system/leases/leat-controller-manager"
	tasks := fmt.Sprintf("/apis/batch.leat.dev/v1alpha1/namespaces/%s/tasks", namespace)
	for _, test := range []struct {
		name         string
		config       *rest.Config
		path, body   string
		schema, want string
	}{
		{"access review", account("leat-apiserver"), "/apis/authorization.k8s.io/v1/subjectaccessreviews",
			`{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{"user":"alice","nonResourceAttributes":{"path":"/","verb":"get"}}}`,
			"leat-system-requests", "leader-election"},
		{"token review", account("leat-apiserver"), "/apis/authentication.k8s.io/v1/tokenreviews",
			`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"none"}}`, "leat-system-requests", "leader-election"},
		{"leader election lease", account("leat-controller-manager"), lease, "", "leat-system-requests", "leader-election"},
		{"controller at the server", e.AtServer().Controller(t), tasks, "", "leat-controllers", "workload-high"},
		{"controller at the host", e.Controller(t), tasks, "", "leat-controllers", "workload-high"},
		{"worker", e.Worker(t, namespace, "worker"), tasks + "?fieldSelector=spec.workerName%3Dworker", "", "leat-workers", "workload-high"},
		{"user at the server", e.Direct(t, "alice", "leat:admins"), tasks, "", "global-default", "global-default"},
	} {
		t.Run(test.name, func(t *testing.T) {
			transport := kit.Must(rest.TransportFor(test.config))(t)
			var schema *flowcontrolv1.FlowSchema
			// The servers read flow schemas some time after they are applied. Until then requests match the catch-all schema.
			kit.Eventually(t, "the request matches its flow schema", func(ctx context.Context) (err error) {
				if schema, err = schemas.Get(ctx, test.schema, metav1.GetOptions{}); err != nil {
					return err
				}
				method := http.MethodGet
				if test.body != "" {
					method = http.MethodPost
				}
				request, err := http.NewRequestWithContext(ctx, method, test.config.Host+test.path, strings.NewReader(test.body))
				if err != nil {
					return err
				}
				request.Header.Set("Content-Type", "application/json")
				response, err := transport.RoundTrip(request)
				if err != nil {
					return err
				}
				defer response.Body.Close()
				if got := response.Header.Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID); got != string(schema.UID) {
					return fmt.Errorf("flow schema of a request with answer %s: got %q, want %s with UID %s", response.Status, got, test.schema, schema.UID)
				}
				return nil
			})
			if got := schema.Spec.PriorityLevelConfiguration.Name; got != test.want {
				t.Errorf("priority level: got %s, want %s", got, test.want)
			}
		})
	}
}
