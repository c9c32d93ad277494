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

// Package logs reads the output of commands as people do: through the server, and through the host's aggregator in front of it.
package logs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/transport/websocket"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/fake"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

const (
	patience = time.Minute
	// requestTimeout is that of the aggregated server: what is followed goes on for longer.
	requestTimeout = 2 * time.Second
	workerName     = "one-abcde"
)

func TestStandalone(t *testing.T) {
	e := kit.Standalone(t, "--workers=1")
	t.Run("a worker of leat up", func(t *testing.T) {
		s := &scene{T: t, env: e, namespace: "default", tasks: kit.Client(t, e.Admin(t)).BatchV1alpha1().Tasks("default")}
		s.create("hello", "echo hello")
		s.finished("hello")
		if got := s.read("hello", nil); got != "hello\n" {
			t.Errorf("Read %q.", got)
		}
	})
	suite(t, e, filepath.Join(e.DataDir(), "pki", "ca.crt"))
}

func TestAggregated(t *testing.T) {
	dir := t.TempDir()
	ca, err := pki.NewCA("workers-clients")
	kit.Check(t, err)
	cert, key, err := ca.IssueClient(batch.WorkerClientName)
	kit.Check(t, err)
	for name, content := range map[string][]byte{"ca.crt": ca.CertPEM(), "tls.crt": cert, "tls.key": key} {
		kit.Check(t, pki.WriteFile(filepath.Join(dir, name), content))
	}
	e := kit.Aggregated(t, "--worker-client-certificate="+filepath.Join(dir, "tls.crt"), "--worker-client-key="+filepath.Join(dir, "tls.key"),
		"--worker-address-ranges=127.0.0.0/8", "--request-timeout="+requestTimeout.String())
	e.StartManager(t, "one", "--leader-elect-lease-duration=3s", "--leader-elect-renew-deadline=2s", "--leader-elect-retry-period=500ms")
	suite(t, e, filepath.Join(dir, "ca.crt"))
}

// scene is a namespace with workers.
type scene struct {
	*testing.T
	env       *kit.Env
	namespace string
	tasks     typed.TaskInterface
	api       typed.BatchV1alpha1Interface
	caFile    string
	worker    *host.Process
	dir       string
}

func suite(t *testing.T, e *kit.Env, caFile string) {
	s := &scene{T: t, env: e, namespace: e.Namespace(t), caFile: caFile, dir: t.TempDir()}
	s.api = kit.Client(t, e.Admin(t)).BatchV1alpha1()
	s.tasks = s.api.Tasks(s.namespace)
	s.worker = s.startWorker(workerName)
	for _, test := range []struct {
		name string
		run  func(*scene)
	}{
		{"a finished task", finishedTask},
		{"a task that runs is followed", followed},
		{"kubectl", kubectl},
		{"a page of a browser", overWebsocket},
		{"a follower that goes away", goneFollower},
		{"a task that prints for ever", longOutput},
		{"members of a set", members},
		{"what cannot be read says why", notReadable},
		{"endpoints that are not a worker's", otherEndpoints},
		{"who may read", access},
		{"a directory that somebody removes", removedDirectory},
		{"a worker that is killed and restarted", restarted},
		{"a task that has moved, and a worker that is gone", moved},
	} {
		t.Run(test.name, func(t *testing.T) {
			scene := *s
			scene.T, scene.dir = t, t.TempDir()
			test.run(&scene)
		})
	}
}

func (s *scene) startWorker(name string, args ...string) *host.Process {
	s.Helper()
	return s.env.StartWorker(s.T, s.env.Worker(s.T, s.namespace, name), s.namespace, name, nil,
		append([]string{"--client-ca-file=" + s.caFile, "--state-dir=" + s.dir, "--labels=worker=" + name, "--tasks=8"}, args...)...)
}

// create creates a task that runs a shell script, which finds a directory of the test in $DIR.
func (s *scene) create(name, script string, changes ...func(*batch.Task)) *batch.Task {
	s.Helper()
	task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batch.TaskSpec{
		Command: []string{"sh", "-c", script},
		Env:     []batch.EnvVar{{Name: "DIR", Value: s.dir}},
	}}
	for _, change := range changes {
		change(task)
	}
	return kit.Must(s.tasks.Create(s.Context(), task, metav1.CreateOptions{}))(s)
}

// waitFor is a part of a script that waits until the test makes a file.
func waitFor(name string) string { return `until [ -e "$DIR/` + name + `" ]; do sleep 0.05; done; ` }

func (s *scene) touch(name string) {
	s.Helper()
	kit.Check(s, os.WriteFile(filepath.Join(s.dir, name), nil, 0o600))
}

// wait waits until the task is as it should be.
func (s *scene) wait(name, what string, is func(*batch.Task) bool) *batch.Task {
	s.Helper()
	var task *batch.Task
	s.eventually(name+" "+what, func(ctx context.Context) (err error) {
		if task, err = s.tasks.Get(ctx, name, metav1.GetOptions{}); err == nil && !is(task) {
			err = fmt.Errorf("the task is bound to %q, its status is %+v", task.Spec.WorkerName, task.Status)
		}
		return err
	})
	return task
}

func (s *scene) finished(name string) *batch.Task {
	s.Helper()
	return s.wait(name, "has finished", func(t *batch.Task) bool { return t.Status.State.Terminated != nil })
}

func (s *scene) running(name string, attempt int32) *batch.Task {
	s.Helper()
	return s.wait(name, "runs", func(t *batch.Task) bool { return t.Status.State.Running != nil && t.Status.Attempts == attempt })
}

func (s *scene) eventually(what string, f func(context.Context) error) {
	s.Helper()
	var last error
	if err := wait.PollUntilContextTimeout(s.Context(), 50*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		last = f(ctx)
		return last == nil, nil
	}); err != nil {
		s.Fatalf("%s: not within %s: %v", what, patience, last)
	}
}

func (s *scene) stream(tasks typed.TaskInterface, name string, options *batch.TaskLogOptions) ([]byte, error) {
	stream, err := tasks.GetLogs(name, options).Stream(s.Context())
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	return io.ReadAll(stream)
}

// read reads the log.
func (s *scene) read(name string, options *batch.TaskLogOptions) string {
	s.Helper()
	if options == nil {
		options = &batch.TaskLogOptions{}
	}
	return string(kit.Must(s.stream(s.tasks, name, options))(s))
}

// refused checks that the log is not read, and that the error has the code and says why.
func (s *scene) refused(name string, options *batch.TaskLogOptions, code int32, says ...string) {
	s.Helper()
	if options == nil {
		options = &batch.TaskLogOptions{}
	}
	content, err := s.stream(s.tasks, name, options)
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Code != code {
		s.Errorf("The log of %s: %v, want %d. %s", name, err, code, content)
		return
	}
	for _, word := range says {
		if !strings.Contains(err.Error(), word) {
			s.Errorf("The log of %s: %q does not say %q.", name, err, word)
		}
	}
}

func finishedTask(s *scene) {
	s.create("done", "echo one; echo two >&2; sleep 0.3; printf three; exit 3")
	s.finished("done")
	for _, test := range []struct {
		options batch.TaskLogOptions
		want    string
	}{
		{batch.TaskLogOptions{}, "^one\ntwo\nthree$"},
		{batch.TaskLogOptions{Follow: true}, "^one\ntwo\nthree$"},
		{batch.TaskLogOptions{TailLines: ptr.To[int64](2)}, "^two\nthree$"},
		{batch.TaskLogOptions{LimitBytes: ptr.To[int64](5)}, "^one\nt$"},
		{batch.TaskLogOptions{SinceSeconds: ptr.To[int64](3600)}, "^one\ntwo\nthree$"},
		{batch.TaskLogOptions{SinceTime: ptr.To(metav1.NewTime(time.Now().Add(time.Hour)))}, "^$"},
		{batch.TaskLogOptions{Timestamps: true, TailLines: ptr.To[int64](2)}, `^\S+Z two\n\S+Z three$`},
	} {
		if got := s.read("done", &test.options); !regexp.MustCompile(test.want).MatchString(got) {
			s.Errorf("With %+v %q was read, want %s.", test.options, got, test.want)
		}
	}
	stamp, _, _ := strings.Cut(s.read("done", &batch.TaskLogOptions{Timestamps: true}), " ")
	if at, err := time.Parse(time.RFC3339, stamp); err != nil || time.Since(at) > patience || time.Since(at) < 0 {
		s.Errorf("The time of the first line is %s: %v.", stamp, err)
	}
	s.refused("done", &batch.TaskLogOptions{Previous: true}, http.StatusBadRequest, "no previous attempt at task done")
	s.refused("absent", nil, http.StatusNotFound, `"absent" not found`)
	s.refused("done", &batch.TaskLogOptions{TailLines: ptr.To[int64](-1)}, http.StatusUnprocessableEntity, "tailLines")

	s.create("silent", "true")
	s.finished("silent")
	if got := s.read("silent", &batch.TaskLogOptions{Follow: true}); got != "" {
		s.Errorf("A task that prints nothing has the log %q.", got)
	}
}

func followed(s *scene) {
	s.create("follow", "echo 1; "+waitFor("second")+"echo 2; sleep 3; echo 3; "+waitFor("end")+"printf 4; exit 1", func(t *batch.Task) {
		t.Spec.BackoffLimit = ptr.To[int32](0)
	})
	s.running("follow", 1)
	stream := kit.Must(s.tasks.GetLogs("follow", &batch.TaskLogOptions{Follow: true}).Stream(s.Context()))(s)
	defer stream.Close()
	lines := bufio.NewReader(stream)
	for i := 1; i <= 3; i++ {
		if line, err := lines.ReadString('\n'); err != nil || line != fmt.Sprintln(i) {
			s.Fatalf("Line %d is %q, %v.", i, line, err)
		}
		if i == 1 {
			s.touch("second")
		}
	}
	if task := s.running("follow", 1); task.Status.State.Terminated != nil {
		s.Error("The task has ended before it was told to.")
	}
	s.touch("end")
	if rest, err := io.ReadAll(lines); err != nil || string(rest) != "4" {
		s.Errorf("At the end came %q, %v.", rest, err)
	}
	if task := s.finished("follow"); task.Status.State.Terminated.Message != "1\n2\n3\n4" {
		s.Errorf("The status has %q.", task.Status.State.Terminated.Message)
	}
}

// Browsers follow over a websocket: what comes is told as it comes, to its end.
func overWebsocket(s *scene) {
	s.create("page", "echo 1; "+waitFor("end")+"echo 2")
	s.running("page", 1)
	open := func(name, protocol string) (io.Closer, func() ([]byte, error), error) {
		transport, holder, err := websocket.RoundTripperFor(s.env.Admin(s.T))
		kit.Check(s, err)
		request := s.api.RESTClient().Get().Namespace(s.namespace).Resource("tasks").Name(name).SubResource("log").Param("follow", "true")
		connection, err := websocket.Negotiate(transport, holder, kit.Must(http.NewRequestWithContext(s.Context(), http.MethodGet, request.URL().String(), nil))(s), protocol)
		if err != nil {
			return nil, nil, err
		}
		return connection, func() ([]byte, error) {
			for { // first of all comes an empty one, which shows that the server is there
				if _, message, err := connection.ReadMessage(); err != nil || len(message) > 0 {
					return message, err
				}
			}
		}, nil
	}
	texts := map[string]func(string) string{
		"binary.k8s.io":        func(text string) string { return text },
		"base64.binary.k8s.io": func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) },
	}
	next := map[string]func() ([]byte, error){}
	for protocol, encode := range texts {
		connection, read, err := open("page", protocol)
		kit.Check(s, err)
		defer connection.Close()
		if message, err := read(); err != nil || string(message) != encode("1\n") {
			s.Fatalf("%s: at first came %q, %v.", protocol, message, err)
		}
		next[protocol] = read
	}
	s.touch("end")
	for protocol, encode := range texts {
		if message, err := next[protocol](); err != nil || string(message) != encode("2\n") {
			s.Errorf("%s: then came %q, %v.", protocol, message, err)
		}
		if message, err := next[protocol](); err == nil || !strings.Contains(err.Error(), "close 1000 (normal)") {
			s.Errorf("%s: at the end came %q, %v.", protocol, message, err)
		}
	}
	if _, _, err := open("nothing", "binary.k8s.io"); err == nil || !strings.Contains(err.Error(), `tasks.batch.leat.dev "nothing" not found`) {
		s.Errorf("The log of no task: %v", err)
	}
}

// kubectl streams, too: what comes is shown as it comes.
func kubectl(s *scene) {
	s.create("raw", "echo 1; "+waitFor("end")+"echo 2")
	s.running("raw", 1)
	root := kit.Must(host.RepositoryRoot())(s)
	path := "/apis/batch.leat.dev/v1alpha1/namespaces/" + s.namespace + "/tasks/raw/log?follow=true&timestamps=true"
	command := exec.CommandContext(s.Context(), filepath.Join(root, "bin", "host", "kubectl"), "get", "--raw", path,
		"--kubeconfig="+s.env.Kubeconfig(s.T, s.env.Admin(s.T), s.namespace))
	var stderr bytes.Buffer
	command.Stderr = &stderr
	stdout := kit.Must(command.StdoutPipe())(s)
	kit.Check(s, command.Start())
	lines := bufio.NewReader(stdout)
	line, err := lines.ReadString('\n')
	if err != nil || !strings.HasSuffix(line, "Z 1\n") {
		s.Errorf("The first line is %q, %v.", line, err)
	}
	s.touch("end")
	rest := kit.Must(io.ReadAll(lines))(s)
	if err := command.Wait(); err != nil || !strings.HasSuffix(string(rest), "Z 2\n") {
		s.Errorf("At the end came %q, %v: %s", rest, err, &stderr)
	}
}

// goneFollower checks that a connection to the worker ends with that of the client.
func goneFollower(s *scene) {
	s.create("endless", "echo 1; "+waitFor("end"))
	s.running("endless", 1)
	worker := kit.Must(s.api.Workers(s.namespace).Get(s.Context(), workerName, metav1.GetOptions{}))(s)
	const readers = 5
	var stop []context.CancelFunc
	for range readers {
		ctx, cancel := context.WithCancel(s.Context())
		stop = append(stop, cancel)
		stream := kit.Must(s.tasks.GetLogs("endless", &batch.TaskLogOptions{Follow: true}).Stream(ctx))(s)
		defer stream.Close()
		kit.Must(io.ReadFull(stream, make([]byte, 2)))(s)
	}
	if n := connections(s, worker.Status.Endpoint.Port); n != readers {
		s.Errorf("The worker has %d connections, want %d.", n, readers)
	}
	for _, cancel := range stop {
		cancel()
	}
	s.eventually("the connections end", func(context.Context) error {
		if n := connections(s, worker.Status.Endpoint.Port); n > 0 {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
	s.touch("end")
}

// connections counts the connections that are open to the local port.
func connections(t testing.TB, port int32) int {
	t.Helper()
	n := 0
	for line := range strings.Lines(string(kit.Must(os.ReadFile("/proc/net/tcp"))(t))) {
		fields := strings.Fields(line)
		if strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) && fields[3] == "01" {
			n++
		}
	}
	return n
}

// longOutput checks that output without end costs the worker neither its memory nor its disk.
func longOutput(s *scene) {
	const size = 300 << 20
	s.create("long", fmt.Sprintf("yes 0123456789abcdef0123456789abcde | head -c %d; echo; echo the end; exit 1", size))
	task := s.finished("long")
	if got := s.read("long", &batch.TaskLogOptions{TailLines: ptr.To[int64](2)}); !strings.HasSuffix(got, "\nthe end\n") {
		s.Errorf("The last lines are %q.", got)
	}
	if got := len(s.read("long", nil)); got < 7<<20 || got > 10<<20 {
		s.Errorf("%d bytes are kept.", got)
	}
	if message := task.Status.State.Terminated.Message; len(message) > 4096 || !strings.HasSuffix(message, "the end\n") {
		s.Errorf("The status has %d bytes of it.", len(message))
	}
	status := string(kit.Must(os.ReadFile(fmt.Sprintf("/proc/%d/status", s.worker.PID())))(s))
	peak := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindStringSubmatch(status)
	if kilobytes := kit.Must(strconv.Atoi(peak[1]))(s); kilobytes > 200_000 {
		s.Errorf("The worker has taken %d kB of memory.", kilobytes)
	}
}

func members(s *scene) {
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: "set"}}
	set.Spec.Completions, set.Spec.Parallelism, set.Spec.CompletionMode = ptr.To[int32](3), ptr.To[int32](3), ptr.To(batch.IndexedCompletion)
	set.Spec.Template.Spec.Command = []string{"sh", "-c", "echo index $TASK_INDEX; " + waitFor("end")}
	set.Spec.Template.Spec.Env = []batch.EnvVar{{Name: "DIR", Value: s.dir}}
	kit.Must(s.api.TaskSets(s.namespace).Create(s.Context(), set, metav1.CreateOptions{}))(s)
	var tasks *batch.TaskList
	s.eventually("the members run", func(ctx context.Context) (err error) {
		if tasks, err = s.tasks.List(ctx, metav1.ListOptions{LabelSelector: batch.LabelTaskSetName + "=set"}); err != nil {
			return err
		}
		for _, task := range tasks.Items {
			if task.Status.State.Running == nil {
				return fmt.Errorf("%s does not", task.Name)
			}
		}
		if len(tasks.Items) != 3 {
			return fmt.Errorf("there are %d", len(tasks.Items))
		}
		return nil
	})
	seen := map[string]bool{}
	for _, task := range tasks.Items {
		seen[s.read(task.Name, nil)] = true
	}
	for i := range 3 {
		if !seen[fmt.Sprintf("index %d\n", i)] {
			s.Errorf("Index %d is not among %v.", i, seen)
		}
	}
	s.touch("end")
}

func notReadable(s *scene) {
	s.create("unbound", "true", func(t *batch.Task) { t.Spec.WorkerSelector = map[string]string{"worker": "none"} })
	s.wait("unbound", "cannot be scheduled", func(t *batch.Task) bool {
		return meta.FindStatusCondition(t.Status.Conditions, batch.TaskScheduled) != nil
	})
	s.refused("unbound", nil, http.StatusBadRequest, "there is no log of task unbound: it waits for a worker: ")
	s.create("unstartable", "true", func(t *batch.Task) { t.Spec.Command = []string{"/no/such/program"} })
	s.finished("unstartable")
	if got := s.read("unstartable", nil); got != "" {
		s.Errorf("A command that was not found has printed %q.", got)
	}

	s.fakeWorker("without-abcde", nil)
	s.bindTo("without", "without-abcde")
	s.refused("without", nil, http.StatusServiceUnavailable, "worker without-abcde serves no logs: start it with --client-ca-file")
}

func access(s *scene) {
	s.create("secret", "echo secret; "+waitFor("end"))
	s.running("secret", 1)
	defer s.touch("end")
	for name, client := range map[string]typed.BatchV1alpha1Interface{
		"the worker itself": kit.Client(s, s.env.Worker(s.T, s.namespace, workerName)).BatchV1alpha1(),
		"another worker":    kit.Client(s, s.env.Worker(s.T, s.namespace, "two-abcde")).BatchV1alpha1(),
		"the controllers":   kit.Client(s, s.env.Controller(s.T)).BatchV1alpha1(),
		"somebody":          kit.Client(s, s.env.Person(s.T, "bob")).BatchV1alpha1(),
	} {
		if content, err := s.stream(client.Tasks(s.namespace), "secret", &batch.TaskLogOptions{}); !apierrors.IsForbidden(err) {
			s.Errorf("%s reads %q, %v.", name, content, err)
		}
	}
	if got := s.read("secret", nil); got != "secret\n" {
		s.Errorf("An administrator reads %q.", got)
	}
}

func restarted(s *scene) {
	s.create("before", "echo before")
	s.finished("before")
	s.create("twice", "echo attempt $TASK_ATTEMPT; "+waitFor("end"))
	s.running("twice", 1)
	following := kit.Must(s.tasks.GetLogs("twice", &batch.TaskLogOptions{Follow: true}).Stream(s.Context()))(s)
	defer following.Close()
	// On a cordoned worker nothing counts as a crash. Else each of its tasks would get a worker of its own next.
	s.cordon(true)
	kit.Check(s, s.worker.Kill())
	if content, err := io.ReadAll(following); err == nil {
		s.Errorf("What was followed until the worker was killed, %q, ended as if it were all.", content)
	}
	s.refused("twice", nil, http.StatusServiceUnavailable, "cannot be read from worker "+workerName, "connection refused")
	kit.Check(s, s.worker.Restart(s.Context()))
	s.cordon(false)
	s.running("twice", 2)
	for previous, want := range map[bool]string{false: "attempt 2\n", true: "attempt 1\n"} {
		if got := s.read("twice", &batch.TaskLogOptions{Previous: previous}); got != want {
			s.Errorf("Previous %t: read %q, want %q.", previous, got, want)
		}
	}
	if got := s.read("before", nil); got != "before\n" {
		s.Errorf("Of a task that finished before, %q is left.", got)
	}
	s.touch("end")
}

// cordon lets the worker of the tests take new tasks, or not.
func (s *scene) cordon(cordoned bool) {
	patch := fmt.Appendf(nil, `{"spec": {"unschedulable": %t}}`, cordoned)
	kit.Must(s.api.Workers(s.namespace).Patch(s.Context(), workerName, types.MergePatchType, patch, metav1.PatchOptions{}))(s)
}

// removedDirectory has the output of a task removed while it runs: what comes later is kept, and no part is passed for the whole.
func removedDirectory(s *scene) {
	const other = "three-abcde"
	s.startWorker(other)
	s.create("cleaned", "echo before; "+waitFor("removed")+"echo after", func(t *batch.Task) {
		t.Spec.WorkerSelector = map[string]string{"worker": other}
	})
	s.running("cleaned", 1)
	s.eventually("its output is kept", func(context.Context) error {
		content, err := s.stream(s.tasks, "cleaned", &batch.TaskLogOptions{})
		if err == nil && string(content) != "before\n" {
			err = fmt.Errorf("it is %q", content)
		}
		return err
	})
	kit.Check(s, os.RemoveAll(filepath.Join(s.dir, "logs")))
	s.touch("removed")
	s.finished("cleaned")
	want := regexp.MustCompile(`^\[leat: the beginning [^\n]+\]\n\[leat: 7 bytes of output are missing here: the file with them was removed\]\nafter\n$`)
	if got := s.read("cleaned", nil); !want.MatchString(got) {
		s.Errorf("Read %q.", got)
	}
}

func moved(s *scene) {
	const other = "two-abcde"
	s.create("moving", "echo attempt $TASK_ATTEMPT; "+waitFor("end")+"exit 1", func(t *batch.Task) { t.Spec.BackoffLimit = ptr.To[int32](0) })
	task := s.running("moving", 1)
	second := s.startWorker(other)
	s.cordon(true)
	kit.Must(kit.Client(s, s.env.Controller(s.T)).BatchV1alpha1().Tasks(s.namespace).Evict(s.Context(), "moving", &batch.Eviction{
		ObjectMeta: metav1.ObjectMeta{Name: "moving", Namespace: s.namespace}, Reason: "Moved", Preconditions: &metav1.Preconditions{UID: &task.UID},
	}, metav1.CreateOptions{}))(s)
	if task := s.running("moving", 2); task.Spec.WorkerName != other {
		s.Fatalf("The task has moved to %s.", task.Spec.WorkerName)
	}
	if got := s.read("moving", nil); got != "attempt 2\n" {
		s.Errorf("Read %q.", got)
	}
	s.refused("moving", &batch.TaskLogOptions{Previous: true}, http.StatusGone, "attempt 1: another worker ran it")
	s.touch("end")
	s.finished("moving")

	kit.Check(s, second.Kill())
	s.refused("moving", nil, http.StatusServiceUnavailable, "cannot be read from worker "+other, "its last lines, from the status:\nattempt 2\n")
	kit.Check(s, s.api.Workers(s.namespace).Delete(s.Context(), other, metav1.DeleteOptions{}))
	s.refused("moving", nil, http.StatusGone, "the log of task moving is gone: worker "+other, "its last lines, from the status:\nattempt 2\n")
	kit.Check(s, second.Restart(s.Context())) // for the cleanup, which expects it to run
}

func TestFakeClientsReadLogs(t *testing.T) {
	tasks := fake.NewClientset().BatchV1alpha1().Tasks("ns")
	content, err := tasks.GetLogs("x", &batch.TaskLogOptions{}).DoRaw(t.Context())
	if err != nil || string(content) != "fake logs" {
		t.Errorf("Read %q, %v.", content, err)
	}
}
