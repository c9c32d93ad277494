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

// Package replicas tests what several leat-apiservers are to their clients: one server, which nobody can talk into taking him for another,
// and which goes on while its replicas are replaced one after the other, certificates are rotated, and the host is slow or away.
package replicas

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// installation is Leat as config/ installs it: two replicas behind one Service, which the host's aggregator knows.
type installation struct {
	*kit.Env
	// replicas are the servers; the first is the Env's own.
	replicas []*kit.Env
	service  *balancer
}

// TestAggregated runs everything on one host. What changes whom the host trusts comes last.
func TestAggregated(t *testing.T) {
	e := kit.Aggregated(t)
	i := &installation{Env: e, replicas: []*kit.Env{e, e.Replica(t)}}
	i.service = balance(t, i.replicas...)
	kit.Check(t, e.Host.RegisterLeat(t.Context(), i.service.port, anonymous(t, e).CAData))
	// The quota controller looks for new APIs only every 30 s, and at its start.
	kit.Check(t, e.Host.ControllerManager.Restart(t.Context()))

	t.Run("Identity", func(t *testing.T) { testIdentity(t, i) })
	t.Run("Revocation", func(t *testing.T) { testRevocation(t, i) })
	t.Run("Quota", func(t *testing.T) { testQuota(t, i) })
	t.Run("Reviews", func(t *testing.T) { testReviews(t, i) })
	// Both wait most of the time, and one is about a replica of its own.
	t.Run("Together", func(t *testing.T) {
		t.Run("ReviewsAway", func(t *testing.T) {
			t.Parallel()
			testReviewsAway(t, i)
		})
		t.Run("RollingRestart", func(t *testing.T) {
			t.Parallel()
			testRollingRestart(t, i)
		})
	})
	t.Run("Rotation", func(t *testing.T) { testRotation(t, i) })
}

const (
	tasksPath    = "/apis/batch.leat.dev/v1alpha1/namespaces/%s/tasks"
	pollInterval = 50 * time.Millisecond
	// patience is how long one step of the host or of a replica may take on a busy machine.
	patience = time.Minute
)

var errNotYet = errors.New("not yet")

// eventually fails the test if the condition, which says what is missing yet, does not come true within the timeout. It gives the time
// that passed.
func eventually(t testing.TB, timeout time.Duration, what string, condition func(context.Context) error) time.Duration {
	t.Helper()
	var last error
	start := time.Now()
	err := wait.PollUntilContextTimeout(t.Context(), pollInterval, timeout, true, func(ctx context.Context) (bool, error) {
		last = condition(ctx)
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("waiting until %s for %s: %v; last: %v", what, time.Since(start).Round(time.Second), err, last)
	}
	return time.Since(start)
}

// refused says nil for an error of that reason, and else what there was instead.
func refused(err error, reason metav1.StatusReason) error {
	if apierrors.ReasonForError(err) != reason {
		return fmt.Errorf("error %v; want one of reason %s", err, reason)
	}
	return nil
}

// hostAdmin is whoever sets the host up. It is never used for our own API, where nobody is asked about it.
func hostAdmin(t testing.TB, e *kit.Env) *kubernetes.Clientset {
	t.Helper()
	return kit.Must(kubernetes.NewForConfig(hostConfig(t, e)))(t)
}

func hostConfig(t testing.TB, e *kit.Env) *rest.Config {
	t.Helper()
	config := kit.Must(clientcmd.BuildConfigFromFlags("", e.Host.AdminKubeconfig))(t)
	config.QPS = -1
	return config
}

// anonymous is whoever shows the server nothing.
func anonymous(t testing.TB, e *kit.Env) *rest.Config {
	t.Helper()
	config := e.Direct(t, "nobody")
	config.CertData, config.KeyData = nil, nil
	return config
}

// showing gives the config with another certificate.
func showing(config *rest.Config, cert, key []byte) *rest.Config {
	config = rest.CopyConfig(config)
	config.CertData, config.KeyData = cert, key
	return config
}

// tasks is the client of an identity for the tasks of a namespace.
func tasks(t testing.TB, config *rest.Config, namespace string) typed.TaskInterface {
	t.Helper()
	return kit.Client(t, config).BatchV1alpha1().Tasks(namespace)
}

// newTask makes a task that no scheduler takes up.
func newTask(name string) *v1alpha1.Task {
	return &v1alpha1.Task{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.TaskSpec{Command: []string{"true"}}}
}

// answer is what a server said to one request.
type answer struct {
	code int
	body string
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.code, a.body) }

// ask sends a request with these headers, as pairs, on a connection of its own, and gives the answer, whichever it is.
func ask(t testing.TB, config *rest.Config, method, path, body string, headers ...string) answer {
	t.Helper()
	return kit.Must(try(t.Context(), config, method, path, body, headers...))(t)
}

// try is ask where there may be no answer at all.
func try(ctx context.Context, config *rest.Config, method, path, body string, headers ...string) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, config.Host+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for pair := range slices.Chunk(headers, 2) {
		request.Header[pair[0]] = append(request.Header[pair[0]], pair[1])
	}
	tls, err := rest.TLSConfigFor(config)
	if err != nil {
		return answer{}, err
	}
	transport, err := rest.HTTPWrappersForConfig(config, &http.Transport{TLSClientConfig: tls, DisableKeepAlives: true})
	if err != nil {
		return answer{}, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, string(data)}, err
}
