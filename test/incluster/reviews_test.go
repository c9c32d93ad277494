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
	"errors"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/measure"
)

// testProgramReviews checks that a server asks its host for few reviews while the programs run a thousand tasks through
// it: one for each kind of request in ten seconds, however many requests there are. The server is a replica of its own,
// because other tests use the rest.
func testProgramReviews(t *testing.T, i *replicated) {
	const items, allowed, swift = 1000, 20, 15 * time.Second
	namespace := i.Namespace(t)
	replica := i.Replica(t)
	replica.StartManager(t, "reviews")
	replica.StartWorker(t, replica.Worker(t, namespace, "worker"), namespace, "worker", nil, "--name=worker", "--namespace="+namespace, "--tasks=64", "--capacity=cpu=64")
	admin := replica.Direct(t, "reviewed", "leat:admins")
	sets := kit.Client(t, admin).BatchV1alpha1().TaskSets(namespace)
	run := func(name string, items int32) time.Duration {
		t.Helper()
		set := kit.Must(sets.Create(t.Context(), &v1alpha1.TaskSet{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: v1alpha1.TaskSetSpec{
				Completions: &items, Parallelism: new(int32(100)),
				Template: v1alpha1.TaskTemplateSpec{Spec: kit.NewTask("").Spec},
			},
		}, metav1.CreateOptions{}))(t)
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		_, err := watchtools.Until(ctx, set.ResourceVersion, &cache.ListWatch{WatchFuncWithContext: sets.Watch}, func(event watch.Event) (bool, error) {
			set, ok := event.Object.(*v1alpha1.TaskSet)
			return ok && set.Name == name && set.Status.Succeeded == items, nil
		})
		kit.Check(t, err)
		return time.Since(start)
	}
	run("first", 1) // waits until the manager leads and its informers have synced
	metrics := replica.Direct(t, "prometheus", "system:monitoring")
	before := requestedReviews(t, metrics)
	took := run("set", items)
	cost := requestedReviews(t, metrics) - before
	t.Logf("%d tasks in %s: %d reviews by the host", items, took.Round(time.Second), cost)
	// Servers cache reviews for ten seconds, so a slow machine needs more of them.
	if limit := allowed * max(1, took.Seconds()/swift.Seconds()); float64(cost) > limit {
		t.Errorf("reviews by the host for %d tasks in %s: got %d, want at most %.0f", items, took, cost, limit)
	}
}

// requestedReviews returns how many reviews of access and of tokens a server has requested from its host since it
// started. The client must connect to the server itself.
func requestedReviews(t *testing.T, client *rest.Config) int {
	t.Helper()
	metrics := kit.Must(measure.ReadMetrics(t.Context(), kit.Must(rest.HTTPClientFor(client))(t), client.Host+"/metrics"))(t)
	access := metrics.Sum("apiserver_delegated_authz_request_total")
	if access == 0 {
		t.Fatal("the server has requested no review of access: its metrics do not count them")
	}
	return int(access + metrics.Sum("apiserver_delegated_authn_request_total"))
}

// testReviewsAway checks the server while reviews by the host are slow or fail: it allows only what it has allowed
// within the last ten seconds, it still authorizes workers by itself, and it recovers as soon as the host answers.
func testReviewsAway(t *testing.T, i *replicated) {
	for fault, begin := range map[string]func(*faultProxy){"slow": (*faultProxy).stall, "failing": (*faultProxy).cut} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			testReviewFault(t, i, begin)
		})
	}
}

// testReviewFault is testReviewsAway for one fault. The fault affects only a replica of its own.
func testReviewFault(t *testing.T, i *replicated, begin func(*faultProxy)) {
	const cached = 10 * time.Second
	namespace := i.Namespace(t)
	path := tasksPath(namespace)
	reviews := newFaultProxy(t, i.Host.URL)
	kubeconfig := kit.Must(clientcmd.LoadFromFile(kit.Must(i.Host.ServiceAccountKubeconfig("leat-system", "leat-apiserver"))(t)))(t)
	for _, cluster := range kubeconfig.Clusters {
		cluster.Server = reviews.url
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	kit.Check(t, clientcmd.WriteToFile(*kubeconfig, file))
	replica := i.Replica(t, "--authentication-kubeconfig="+file, "--authorization-kubeconfig="+file)
	worker := replica.Worker(t, namespace, "worker")
	ownTasks := path + "?fieldSelector=spec.workerName%3Dworker"

	known := map[string]*rest.Config{"a certificate": replica.Direct(t, "alice", "leat:admins"), "a token": byToken(t, replica, namespace, "known")}
	newcomers := map[string]*rest.Config{"a certificate": replica.Direct(t, "alice", "leat:admins"), "a token": byToken(t, replica, namespace, "newcomer")}
	for _, config := range known {
		kit.Eventually(t, "the known client is allowed", lists(config, path))
	}
	begin(reviews)
	since := time.Now()
	var all sync.WaitGroup
	for with, config := range newcomers {
		all.Go(func() {
			got, err := kit.TryDo(t.Context(), config, http.MethodGet, path, "")
			if err != nil || got.Code < 400 {
				t.Errorf("new client with %s: got %s and error %v, want an error code", with, got, err)
			}
			t.Logf("after %s the new client with %s got %s", time.Since(since).Round(time.Second), with, got)
		})
	}
	for with, config := range known {
		all.Go(func() {
			for range 3 {
				asked := time.Since(since)
				got, err := kit.TryDo(t.Context(), config, http.MethodGet, path, "")
				switch {
				case err != nil:
					t.Errorf("known client with %s: got error %v, want an answer", with, err)
					return
				case got.Code < 400 && asked > cached:
					t.Errorf("known client with %s: allowed %s after the last review, want denied", with, asked.Round(time.Second))
				case got.Code < 400:
					waitUntil(t, since.Add(cached+time.Second))
					continue
				}
				t.Logf("%s after the last review the known client with %s got %s", asked.Round(time.Second), with, got)
				return
			}
		})
	}
	if got := kit.Do(t, worker, http.MethodGet, ownTasks, ""); got.Code != http.StatusOK {
		t.Errorf("worker: got %s, want 200", got)
	}
	if got := kit.Do(t, replica.Anonymous(t), http.MethodGet, "/readyz", ""); got.Code != http.StatusOK {
		t.Errorf("GET /readyz: got %s, want 200", got)
	}
	all.Wait()
	reviews.heal()
	for with, config := range newcomers {
		start := time.Now()
		kit.Eventually(t, "the new client is allowed", lists(config, path))
		t.Logf("the new client with %s is allowed %s after the host is back", with, time.Since(start).Round(100*time.Millisecond))
	}
}

// lists returns a condition that is met when the client may list tasks.
func lists(config *rest.Config, path string) func(context.Context) error {
	return func(ctx context.Context) error {
		got, err := kit.TryDo(ctx, config, http.MethodGet, path, "")
		if err == nil && got.Code != http.StatusOK {
			err = errors.New(got.String())
		}
		return err
	}
}

// waitUntil waits for a point in time.
func waitUntil(t *testing.T, when time.Time) {
	t.Helper()
	kit.Eventually(t, "the time has come", func(context.Context) error {
		if time.Now().Before(when) {
			return await.ErrNotYet
		}
		return nil
	})
}

// byToken returns a client of the server with the token of a new service account, which may edit tasks in its
// namespace.
func byToken(t *testing.T, e *kit.Env, namespace, name string) *rest.Config {
	t.Helper()
	client := e.HostClient(t)
	kit.Must(client.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))(t)
	kit.Must(client.RbacV1().RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "leat:edit"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}},
	}, metav1.CreateOptions{}))(t)
	token := kit.Must(client.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{}))(t)
	config := e.Anonymous(t)
	config.BearerToken = token.Status.Token
	return config
}

// faultProxy is a TCP proxy that can delay the data of both directions, or close connections.
type faultProxy struct {
	url      string
	target   string
	listener net.Listener
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	down  bool
	// open is closed while data passes.
	open chan struct{}
}

// newFaultProxy starts a proxy to a server.
func newFaultProxy(t *testing.T, server string) *faultProxy {
	t.Helper()
	w := &faultProxy{
		target: kit.Must(url.Parse(server))(t).Host, listener: kit.Must(net.Listen("tcp", "127.0.0.1:0"))(t),
		conns: map[net.Conn]struct{}{}, open: make(chan struct{}),
	}
	w.url = "https://" + w.listener.Addr().String()
	close(w.open)
	w.wg.Go(w.accept)
	t.Cleanup(func() {
		kit.Check(t, w.listener.Close())
		w.cut()
		w.heal()
		w.wg.Wait()
	})
	return w
}

func (w *faultProxy) accept() {
	for {
		client, err := w.listener.Accept()
		if err != nil {
			return // the listener is closed
		}
		server, err := net.Dial("tcp", w.target)
		w.mu.Lock()
		if err != nil || w.down {
			_ = client.Close()
			if server != nil {
				_ = server.Close()
			}
		} else {
			w.conns[client], w.conns[server] = struct{}{}, struct{}{}
			w.wg.Go(func() { w.pass(client, server) })
			w.wg.Go(func() { w.pass(server, client) })
		}
		w.mu.Unlock()
	}
}

// pass copies from one connection to the other until either is closed.
func (w *faultProxy) pass(from, to net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		w.mu.Lock()
		open := w.open
		w.mu.Unlock()
		<-open
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	w.mu.Lock()
	delete(w.conns, from)
	w.mu.Unlock()
	_, _ = from.Close(), to.Close()
}

// stall delays all data until heal.
func (w *faultProxy) stall() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = make(chan struct{})
}

// cut closes all connections, and new ones at once, until heal.
func (w *faultProxy) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = true
	for conn := range w.conns {
		_ = conn.Close()
	}
}

// heal ends the faults.
func (w *faultProxy) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = false
	select {
	case <-w.open:
	default:
		close(w.open)
	}
}
