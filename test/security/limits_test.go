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

package security

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/measure"
)

const (
	// cpuBudget and memoryBudget (in MiB) are the budgets of a request in the process of the server.
	cpuBudget    = time.Second
	memoryBudget = 100.0
	// raceFactor is the factor of CPU time and memory of a program with the race detector.
	raceFactor = 10
	// raceShare divides the number of objects for a program with the race detector.
	raceShare = 4
	// storagePrefix is the prefix of the objects of the server in etcd.
	storagePrefix = "/leat/"
)

// TestStandaloneLimits attacks "leat up", whose process has etcd as well. It has a server of its own: floods and large
// lists would disturb other suites, and the budgets do not cover workers and controllers.
func TestStandaloneLimits(t *testing.T) {
	s := newServer(t, kit.Standalone(t))
	t.Run("requests", s.testRequests)
	t.Run("tokens of other lists", s.testForeignTokens)
	t.Run("future revision", s.testFuture)
	t.Run("many managers", s.testManyManagers)
	t.Run("large lists", s.testLargeLists)
	t.Run("connections", s.testConnections)
}

// testLimits sends attacks to leat-apiserver, directly and through its host. A few of each kind are enough, because the
// limits are the same code as in standalone mode.
func testLimits(t *testing.T, e *kit.Env) {
	allowMetrics(t, e)
	s := newServer(t, e.AtServer())
	t.Run("separate etcd", func(t *testing.T) {
		namespace, all := s.namespace(t), attacks()
		for _, name := range []string{"a task of 1.6 MiB", "10,000 labels, applied", "1,000 operations"} {
			s.testRequest(t, namespace, name, all[name])
		}
	})
	h := s.throughHost(t, e)
	t.Run("through the host", h.testThroughHost)
	t.Run("tokens of other lists", h.testForeignTokens)
}

// allowMetrics allows the administrators of Leat to read metrics, which leat:admin does not include.
func allowMetrics(t *testing.T, e *kit.Env) {
	t.Helper()
	name := "limits-metrics"
	role(t, e, name, rbacv1.PolicyRule{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}})
	e.BindClusterRole(t, "", name, name, kit.GroupSubject("leat:admins"))
}

// server is the server under attack, with clients of an administrator.
type server struct {
	env    *kit.Env
	config *rest.Config
	// metricsURL is the URL of the metrics of the server, for metricsClient.
	metricsURL    string
	metricsClient *http.Client
	// http uses HTTP/2, http1 uses HTTP/1.1, and others is another user.
	http, http1, others *http.Client
	tasks               versioned.Interface
	etcd                *clientv3.Client
	// factor multiplies budgets: 1, or raceFactor with the race detector.
	factor float64
	// floor is the resident memory of the unused server, in MiB.
	floor float64
}

func newServer(t *testing.T, e *kit.Env) *server {
	s := &server{env: e, etcd: e.EtcdClient(t), factor: 1}
	s.connect(t)
	s.metricsURL, s.metricsClient = s.config.Host+"/metrics", s.http
	if raceBuild(t, s.pid()) {
		s.factor = raceFactor
	}
	s.warm(t)
	return s
}

// connect creates the clients.
func (s *server) connect(t *testing.T) {
	t.Helper()
	s.config = s.env.Admin(t)
	s.config.Timeout = patience
	s.http = kit.Must(rest.HTTPClientFor(s.config))(t)
	older := rest.CopyConfig(s.config)
	older.NextProtos = []string{"http/1.1"}
	s.http1 = kit.Must(rest.HTTPClientFor(older))(t)
	s.others = kit.Must(rest.HTTPClientFor(s.env.Person(t, "bob", "leat:admins")))(t)
	s.tasks = kit.Client(t, s.config)
}

// throughHost returns the same server with clients that connect to its host.
func (s *server) throughHost(t *testing.T, e *kit.Env) *server {
	t.Helper()
	h := *s
	h.env = e
	h.connect(t)
	h.answers(t)
	return &h
}

// some returns n, or a share of it with the race detector.
func (s *server) some(n int) int {
	if s.factor > 1 {
		return n / raceShare
	}
	return n
}

// warm sends requests that initialize what later requests share, and measures floor.
func (s *server) warm(t *testing.T) {
	t.Helper()
	s.answers(t)
	s.send(t, request{path: groupPath + "/namespaces/nobody/tasks", accept: tableType})
	s.allocated(t)
	s.floor = s.memory(t, "VmRSS")
}

// measured returns the cost of a request that can be repeated. If it exceeds the memory budget, the garbage of earlier
// requests may be the cause, and measured repeats it on a restarted server.
func (s *server) measured(t *testing.T, f func()) cost {
	t.Helper()
	costOf := s.cost
	if s.factor > 1 {
		costOf = s.spent // reading metrics takes longer than most requests
	}
	c := costOf(t, f)
	if c.memory > memoryBudget*s.factor {
		t.Logf("%v with the garbage of earlier requests; repeating it", c)
		s.restart(t)
		c = s.cost(t, f)
	}
	return c
}

func (s *server) restart(t *testing.T) {
	t.Helper()
	kit.Check(t, s.env.Server.Restart(t.Context()))
	s.warm(t)
}

// namespace creates a namespace for the test with a task "target".
func (s *server) namespace(t *testing.T) string {
	t.Helper()
	namespace := s.env.Namespace(t)
	task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: "target"}, Spec: batch.TaskSpec{Command: []string{"true"}}}
	kit.Must(s.tasks.BatchV1alpha1().Tasks(namespace).Create(t.Context(), task, metav1.CreateOptions{}))(t)
	return namespace
}

// raceBuild reports whether the program of a process has the race detector.
func raceBuild(t *testing.T, pid int) bool {
	t.Helper()
	info := kit.Must(buildinfo.ReadFile(fmt.Sprintf("/proc/%d/exe", pid)))(t)
	for _, setting := range info.Settings {
		if setting.Key == "-race" {
			return setting.Value == "true"
		}
	}
	return false
}

func (s *server) pid() int { return s.env.Server.PID() }

// memory returns a line of the status of the process, such as VmRSS, in MiB.
func (s *server) memory(t *testing.T, line string) float64 {
	t.Helper()
	return kit.Must(measure.Memory(s.pid(), line))(t)
}

// cost is what the process of the server spent.
type cost struct {
	cpu time.Duration
	// memory is its peak above floor, or all that it allocated if that is less, in MiB.
	memory float64
}

func (c cost) String() string {
	return fmt.Sprintf("%d ms CPU, %.0f MiB", c.cpu.Milliseconds(), c.memory)
}

// cost returns what the server spends while f runs. It includes everything that the server does meanwhile, and garbage
// of earlier requests unless f allocates less, so it is never too low.
func (s *server) cost(t *testing.T, f func()) cost {
	t.Helper()
	allocated := s.allocated(t)
	c := s.spent(t, f)
	c.memory = max(0, min(c.memory, s.allocated(t)-allocated))
	return c
}

// spent returns the cost including all garbage of earlier requests.
func (s *server) spent(t *testing.T, f func()) cost {
	t.Helper()
	kit.Check(t, measure.ResetPeak(s.pid()))
	before := kit.Must(measure.CPU(s.pid()))(t)
	f()
	cpu := kit.Must(measure.CPU(s.pid()))(t) - before
	return cost{cpu, s.memory(t, "VmHWM") - s.floor}
}

// allocated returns the memory that the server has allocated since its start, in MiB.
func (s *server) allocated(t *testing.T) float64 {
	t.Helper()
	return s.metrics(t)["go_memstats_alloc_bytes_total"] / (1 << 20)
}

func (s *server) metrics(t *testing.T) measure.Metrics {
	t.Helper()
	return kit.Must(measure.ReadMetrics(t.Context(), s.metricsClient, s.metricsURL))(t)
}

// within fails the test if the cost exceeds the budget of a request.
func (s *server) within(t *testing.T, c cost) {
	t.Helper()
	if limit := time.Duration(float64(cpuBudget) * s.factor); c.cpu > limit {
		t.Errorf("took %v of CPU time, want at most %v", c.cpu, limit)
	}
	if limit := memoryBudget * s.factor; c.memory > limit {
		t.Errorf("took %.0f MiB, want at most %.0f", c.memory, limit)
	}
}

// request is an HTTP request.
type request struct {
	method, path                  string // GET if method is empty
	contentType, accept, encoding string // headers, if not empty
	header                        http.Header
	body                          []byte
	chunked                       bool // without Content-Length
	http1                         bool // over HTTP/1.1
	other                         bool // by another user
}

// response is an HTTP response with its body.
type response struct {
	code   int
	header http.Header
	body   []byte
}

// try sends a request and reads the response. It returns an error if the connection failed.
func (s *server) try(ctx context.Context, r request) (response, error) {
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
		if r.chunked {
			body = io.MultiReader(body)
		}
	}
	if r.method == "" {
		r.method = http.MethodGet
	}
	out, err := http.NewRequestWithContext(ctx, r.method, s.config.Host+r.path, body)
	if err != nil {
		return response{}, err
	}
	for key, values := range r.header {
		out.Header[key] = values
	}
	for key, value := range map[string]string{"Content-Type": r.contentType, "Accept": r.accept, "Content-Encoding": r.encoding} {
		if value != "" {
			out.Header.Set(key, value)
		}
	}
	client := s.http
	switch {
	case r.http1:
		client = s.http1
	case r.other:
		client = s.others
	}
	in, err := client.Do(out)
	if err != nil {
		return response{}, err
	}
	defer in.Body.Close()
	text, err := io.ReadAll(in.Body)
	return response{in.StatusCode, in.Header, text}, err
}

func (s *server) send(t *testing.T, r request) response {
	t.Helper()
	return kit.Must(s.try(t.Context(), r))(t)
}

// answers checks that the server answers another user. The user may have to retry after a 429.
func (s *server) answers(t *testing.T) {
	t.Helper()
	for _, path := range []string{groupPath + "/namespaces/nobody/tasks?limit=1", "/readyz"} {
		var got response
		kit.Check(t, wait.PollUntilContextTimeout(t.Context(), interval, patience, true, func(context.Context) (bool, error) {
			got = s.send(t, request{path: path, other: true})
			return got.code != http.StatusTooManyRequests, nil
		}))
		if got.code != http.StatusOK {
			t.Fatalf("%s afterwards: got %d, want 200: %s", path, got.code, shorten(got.body))
		}
	}
}

// revision describes the stored objects: their number and the revision of the last change.
func (s *server) revision(t *testing.T) string {
	t.Helper()
	last := kit.Must(s.etcd.Get(t.Context(), storagePrefix, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend),
		clientv3.WithLimit(1), clientv3.WithKeysOnly()))(t)
	if len(last.Kvs) == 0 {
		t.Fatal("etcd has no objects of Leat")
	}
	return fmt.Sprintf("%d objects, the last change %d", last.Count, last.Kvs[0].ModRevision)
}

// shorten returns the start of a message, which may repeat a large request.
func shorten(text []byte) string {
	if len(text) > 600 {
		return fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(string(text[:600]), "?"), len(text))
	}
	return string(text)
}
