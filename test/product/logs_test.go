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
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/transport/websocket"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/fake"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

const (
	// requestTimeout is that of the aggregated server. A log may be followed for longer.
	requestTimeout = 10 * time.Second
	logsWorker     = "one-abcde"
)

// logsSuite reads logs in a namespace with a worker that serves them.
type logsSuite struct {
	fixture
	tasks  typed.TaskInterface
	caFile string
	worker *host.Process
	dir    string // $DIR of the scripts of a case
	state  string // the state directory of the worker
}

type logsCase struct {
	name string
	run  func(*logsSuite, *testing.T)
}

// logsStandalone reads from the server.
func logsStandalone(t *testing.T, e *kit.Env) {
	newLogsSuite(t, e, filepath.Join(e.DataDir(), "pki", "ca.crt")).run(t, slices.Concat(logsCases, []logsCase{
		{"endless output", (*logsSuite).longOutput},
		{"tasks of a set", (*logsSuite).tasksOfSet},
		{"removed log directory", (*logsSuite).removedDirectory},
		{"moved task and deleted worker", (*logsSuite).moved},
	}))
}

// logsAggregated reads through the aggregator of the host. caFile has the authority of the client certificate that the
// server shows to workers.
func logsAggregated(t *testing.T, e *kit.Env, caFile string) {
	newLogsSuite(t, e, caFile).run(t, slices.Concat(logsCases, []logsCase{
		{"follow for longer than --request-timeout", (*logsSuite).followedForLong},
		{"killed and restarted worker", (*logsSuite).restarted},
	}))
}

// logsCases run in both environments.
var logsCases = []logsCase{
	{"finished task", (*logsSuite).finishedTask},
	{"follow a running task", (*logsSuite).followed},
	{"kubectl", (*logsSuite).kubectl},
	{"websocket", (*logsSuite).overWebsocket},
	{"disconnected follower", (*logsSuite).disconnectedFollower},
	{"unreadable logs", (*logsSuite).unreadable},
	{"false endpoints", (*logsSuite).falseEndpoints},
	{"authorization", (*logsSuite).authorization},
}

func newLogsSuite(t *testing.T, e *kit.Env, caFile string) *logsSuite {
	t.Helper()
	s := &logsSuite{fixture: newFixture(t, e, e.Namespace(t)), caFile: caFile, dir: t.TempDir()}
	s.state = s.dir
	s.tasks = s.api.Tasks(s.namespace)
	s.worker = s.startWorker(t, logsWorker)
	return s
}

func (s *logsSuite) run(t *testing.T, cases []logsCase) {
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			own := *s
			own.dir = t.TempDir()
			test.run(&own, t)
		})
	}
}

// logsOfBuiltInWorker reads a log from a worker inside leat up.
func logsOfBuiltInWorker(t *testing.T, e *kit.Env) {
	s := &logsSuite{fixture: newFixture(t, e, "default")}
	s.tasks = s.api.Tasks(s.namespace)
	s.create(t, "prints-hello", "echo hello")
	s.finished(t, "prints-hello")
	if got := s.read(t, "prints-hello", nil); got != "hello\n" {
		t.Errorf("read %q", got)
	}
}

func (s *logsSuite) startWorker(t *testing.T, name string, args ...string) *host.Process {
	t.Helper()
	return s.env.StartWorker(t, s.env.Worker(t, s.namespace, name), s.namespace, name, nil,
		append([]string{"--client-ca-file=" + s.caFile, "--state-dir=" + s.dir, "--labels=worker=" + name, "--tasks=8"}, args...)...)
}

// create creates a task that runs a shell script. $DIR is the directory of the case.
func (s *logsSuite) create(t *testing.T, name, script string, changes ...func(*batch.Task)) *batch.Task {
	t.Helper()
	task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batch.TaskSpec{
		Command: []string{"sh", "-c", script},
		Env:     []batch.EnvVar{{Name: "DIR", Value: s.dir}},
	}}
	for _, change := range changes {
		change(task)
	}
	return kit.Must(s.tasks.Create(t.Context(), task, metav1.CreateOptions{}))(t)
}

// waitFor returns a part of a script that waits until the test creates a file in $DIR.
func waitFor(name string) string { return `until [ -e "$DIR/` + name + `" ]; do sleep 0.05; done; ` }

// touch creates a file for waitFor.
func (s *logsSuite) touch(t *testing.T, name string) {
	t.Helper()
	touch(t, filepath.Join(s.dir, name))
}

func (s *logsSuite) finished(t *testing.T, name string) *batch.Task {
	t.Helper()
	return s.waitForTask(t, name, "has finished", func(task *batch.Task) bool { return task.Status.State.Terminated != nil })
}

func (s *logsSuite) running(t *testing.T, name string, attempt int32) *batch.Task {
	t.Helper()
	return s.waitForTask(t, name, "runs", func(task *batch.Task) bool {
		return task.Status.State.Running != nil && task.Status.Attempts == attempt
	})
}

// stream returns the whole log.
func (s *logsSuite) stream(t *testing.T, tasks typed.TaskInterface, name string, options *batch.TaskLogOptions) ([]byte, error) {
	stream, err := tasks.GetLogs(name, options).Stream(t.Context())
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	return io.ReadAll(stream)
}

// read returns the whole log, and fails the test at once on an error.
func (s *logsSuite) read(t *testing.T, name string, options *batch.TaskLogOptions) string {
	t.Helper()
	if options == nil {
		options = &batch.TaskLogOptions{}
	}
	return string(kit.Must(s.stream(t, s.tasks, name, options))(t))
}

// waitForLog waits until the log is as wanted: a task may run before its output is there.
func (s *logsSuite) waitForLog(t *testing.T, name string, options *batch.TaskLogOptions, want string) {
	t.Helper()
	kit.Eventually(t, fmt.Sprintf("the log of %s is %q", name, want), func(context.Context) error {
		content, err := s.stream(t, s.tasks, name, options)
		if err == nil && string(content) != want {
			err = fmt.Errorf("read %q", content)
		}
		return err
	})
}

// refused fails the test if reading the log does not fail with this code and a message with these words.
func (s *logsSuite) refused(t *testing.T, name string, options *batch.TaskLogOptions, code int32, words ...string) {
	t.Helper()
	if options == nil {
		options = &batch.TaskLogOptions{}
	}
	content, err := s.stream(t, s.tasks, name, options)
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Code != code {
		t.Errorf("log of %s: got error %v, want code %d; content %q", name, err, code, content)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("log of %s: got error %q, want it to have %q", name, err, word)
		}
	}
}

func (s *logsSuite) finishedTask(t *testing.T) {
	s.create(t, "done", "echo one; echo two >&2; sleep 0.3; printf three; exit 3")
	s.finished(t, "done")
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
		if got := s.read(t, "done", &test.options); !regexp.MustCompile(test.want).MatchString(got) {
			t.Errorf("with options %+v: read %q, want %s", test.options, got, test.want)
		}
	}
	stamp, _, _ := strings.Cut(s.read(t, "done", &batch.TaskLogOptions{Timestamps: true}), " ")
	if at, err := time.Parse(time.RFC3339, stamp); err != nil || time.Since(at) > kit.Patience || time.Since(at) < 0 {
		t.Errorf("got the timestamp %s of the first line: %v", stamp, err)
	}
	s.refused(t, "done", &batch.TaskLogOptions{Previous: true}, http.StatusBadRequest, "no previous attempt at task done")
	s.refused(t, "absent", nil, http.StatusNotFound, `"absent" not found`)
	s.refused(t, "done", &batch.TaskLogOptions{TailLines: ptr.To[int64](-1)}, http.StatusUnprocessableEntity, "tailLines")

	s.create(t, "silent", "true")
	s.finished(t, "silent")
	if got := s.read(t, "silent", &batch.TaskLogOptions{Follow: true}); got != "" {
		t.Errorf("a task without output: read %q", got)
	}
}

func (s *logsSuite) followed(t *testing.T) {
	s.create(t, "follow", "echo 1; "+waitFor("second")+"echo 2; echo 3; "+waitFor("end")+"printf 4; exit 1", func(t *batch.Task) {
		t.Spec.BackoffLimit = ptr.To[int32](0)
	})
	s.running(t, "follow", 1)
	stream := kit.Must(s.tasks.GetLogs("follow", &batch.TaskLogOptions{Follow: true}).Stream(t.Context()))(t)
	defer stream.Close()
	lines := bufio.NewReader(stream)
	for i := 1; i <= 3; i++ {
		if line, err := lines.ReadString('\n'); err != nil || line != fmt.Sprintln(i) {
			t.Fatalf("line %d: read %q, %v", i, line, err)
		}
		if i == 1 {
			s.touch(t, "second")
		}
	}
	if task := s.running(t, "follow", 1); task.Status.State.Terminated != nil {
		t.Error("the task has ended early")
	}
	s.touch(t, "end")
	if rest, err := io.ReadAll(lines); err != nil || string(rest) != "4" {
		t.Errorf("last line: read %q, %v", rest, err)
	}
	if task := s.finished(t, "follow"); task.Status.State.Terminated.Message != "1\n2\n3\n4" {
		t.Errorf("got the message %q in the status", task.Status.State.Terminated.Message)
	}
}

func (s *logsSuite) followedForLong(t *testing.T) {
	s.create(t, "follow-long", fmt.Sprintf("echo 1; sleep %d; echo 2", int(requestTimeout.Seconds())+1))
	s.running(t, "follow-long", 1)
	if got := s.read(t, "follow-long", &batch.TaskLogOptions{Follow: true}); got != "1\n2\n" {
		t.Errorf("read %q", got)
	}
}

// overWebsocket follows a log as browsers do: each line arrives as it is printed, and the connection closes at the
// end.
func (s *logsSuite) overWebsocket(t *testing.T) {
	s.create(t, "page", "echo 1; "+waitFor("end")+"echo 2")
	s.running(t, "page", 1)
	open := func(name, protocol string) (io.Closer, func() ([]byte, error), error) {
		transport, holder, err := websocket.RoundTripperFor(s.env.Admin(t))
		kit.Check(t, err)
		request := s.api.RESTClient().Get().Namespace(s.namespace).Resource("tasks").Name(name).SubResource("log").Param("follow", "true")
		connection, err := websocket.Negotiate(transport, holder, kit.Must(http.NewRequestWithContext(t.Context(), http.MethodGet, request.URL().String(), nil))(t), protocol)
		if err != nil {
			return nil, nil, err
		}
		return connection, func() ([]byte, error) {
			for { // the first message is empty and only shows that the server is there
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
		kit.Check(t, err)
		defer connection.Close()
		if message, err := read(); err != nil || string(message) != encode("1\n") {
			t.Fatalf("%s: first message: got %q, %v", protocol, message, err)
		}
		next[protocol] = read
	}
	s.touch(t, "end")
	for protocol, encode := range texts {
		if message, err := next[protocol](); err != nil || string(message) != encode("2\n") {
			t.Errorf("%s: second message: got %q, %v", protocol, message, err)
		}
		if message, err := next[protocol](); err == nil || !strings.Contains(err.Error(), "close 1000 (normal)") {
			t.Errorf("%s: end: got %q, %v", protocol, message, err)
		}
	}
	if _, _, err := open("nothing", "binary.k8s.io"); err == nil || !strings.Contains(err.Error(), `tasks.batch.leat.dev "nothing" not found`) {
		t.Errorf("log of a task that does not exist: got %v", err)
	}
}

// kubectl follows a log: each line arrives as it is printed.
func (s *logsSuite) kubectl(t *testing.T) {
	s.create(t, "raw", "echo 1; "+waitFor("end")+"echo 2")
	s.running(t, "raw", 1)
	root := kit.Must(host.RepositoryRoot())(t)
	path := "/apis/batch.leat.dev/v1alpha1/namespaces/" + s.namespace + "/tasks/raw/log?follow=true&timestamps=true"
	command := exec.CommandContext(t.Context(), filepath.Join(root, "bin", "host", "kubectl"), "get", "--raw", path,
		"--kubeconfig="+s.env.Kubeconfig(t, s.env.Admin(t), s.namespace))
	var stderr bytes.Buffer
	command.Stderr = &stderr
	stdout := kit.Must(command.StdoutPipe())(t)
	kit.Check(t, command.Start())
	lines := bufio.NewReader(stdout)
	line, err := lines.ReadString('\n')
	if err != nil || !strings.HasSuffix(line, "Z 1\n") {
		t.Errorf("first line: read %q, %v", line, err)
	}
	s.touch(t, "end")
	rest := kit.Must(io.ReadAll(lines))(t)
	if err := command.Wait(); err != nil || !strings.HasSuffix(string(rest), "Z 2\n") {
		t.Errorf("rest: read %q, %v: %s", rest, err, &stderr)
	}
}

// disconnectedFollower checks that the connection to the worker ends with that of the client.
func (s *logsSuite) disconnectedFollower(t *testing.T) {
	s.create(t, "endless", "echo 1; "+waitFor("end"))
	s.running(t, "endless", 1)
	worker := kit.Must(s.api.Workers(s.namespace).Get(t.Context(), logsWorker, metav1.GetOptions{}))(t)
	const readers = 5
	var stop []context.CancelFunc
	for range readers {
		ctx, cancel := context.WithCancel(t.Context())
		stop = append(stop, cancel)
		stream := kit.Must(s.tasks.GetLogs("endless", &batch.TaskLogOptions{Follow: true}).Stream(ctx))(t)
		defer stream.Close()
		kit.Must(io.ReadFull(stream, make([]byte, 2)))(t)
	}
	if n := connections(t, worker.Status.Endpoint.Port); n != readers {
		t.Errorf("the worker has %d connections, want %d", n, readers)
	}
	for _, cancel := range stop {
		cancel()
	}
	kit.Eventually(t, "the connections to the worker end", func(context.Context) error {
		if n := connections(t, worker.Status.Endpoint.Port); n > 0 {
			return fmt.Errorf("got %d", n)
		}
		return nil
	})
	s.touch(t, "end")
}

// connections returns the number of established connections of a local port.
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

// longOutput checks that output without end exhausts neither the memory nor the disk of the worker.
func (s *logsSuite) longOutput(t *testing.T) {
	const size = 300 << 20
	s.create(t, "long", fmt.Sprintf("yes 0123456789abcdef0123456789abcde | head -c %d; echo; echo the end; exit 1", size))
	task := s.finished(t, "long")
	if got := s.read(t, "long", &batch.TaskLogOptions{TailLines: ptr.To[int64](2)}); !strings.HasSuffix(got, "\nthe end\n") {
		t.Errorf("last lines: read %q", got)
	}
	// A worker keeps 10 MiB of an attempt, and the archive the last one of these.
	if got := len(s.read(t, "long", nil)); got < 1<<20-1000 || got > 10<<20 {
		t.Errorf("read %d bytes, want 1 to 10 MiB", got)
	}
	if message := task.Status.State.Terminated.Message; len(message) > 4096 || !strings.HasSuffix(message, "the end\n") {
		t.Errorf("got a message of %d bytes in the status, want the last 4 KiB", len(message))
	}
	status := string(kit.Must(os.ReadFile(fmt.Sprintf("/proc/%d/status", s.worker.PID())))(t))
	peak := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindStringSubmatch(status)
	if kilobytes := kit.Must(strconv.Atoi(peak[1]))(t); kilobytes > 200_000 {
		t.Errorf("the worker used up to %d kB of memory, want at most 200000", kilobytes)
	}
}

func (s *logsSuite) tasksOfSet(t *testing.T) {
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: "set"}}
	set.Spec.Completions, set.Spec.Parallelism, set.Spec.CompletionMode = ptr.To[int32](3), ptr.To[int32](3), ptr.To(batch.IndexedCompletion)
	set.Spec.Template.Spec.Command = []string{"sh", "-c", "echo index $TASK_INDEX; " + waitFor("end")}
	set.Spec.Template.Spec.Env = []batch.EnvVar{{Name: "DIR", Value: s.dir}}
	kit.Must(s.api.TaskSets(s.namespace).Create(t.Context(), set, metav1.CreateOptions{}))(t)
	var tasks *batch.TaskList
	kit.Eventually(t, "the tasks run", func(ctx context.Context) (err error) {
		if tasks, err = s.tasks.List(ctx, metav1.ListOptions{LabelSelector: batch.LabelTaskSetName + "=set"}); err != nil {
			return err
		}
		for _, task := range tasks.Items {
			if task.Status.State.Running == nil {
				return fmt.Errorf("%s does not run", task.Name)
			}
		}
		if len(tasks.Items) != 3 {
			return fmt.Errorf("got %d tasks", len(tasks.Items))
		}
		return nil
	})
	seen := map[string]bool{}
	for _, task := range tasks.Items {
		kit.Eventually(t, task.Name+" has output", func(context.Context) error {
			content, err := s.stream(t, s.tasks, task.Name, &batch.TaskLogOptions{})
			if err == nil && len(content) == 0 {
				err = errors.New("it has none")
			}
			seen[string(content)] = true
			return err
		})
	}
	for i := range 3 {
		if !seen[fmt.Sprintf("index %d\n", i)] {
			t.Errorf("no log of index %d: read %v", i, seen)
		}
	}
	s.touch(t, "end")
}

func (s *logsSuite) unreadable(t *testing.T) {
	s.create(t, "unbound", "true", func(task *batch.Task) { task.Spec.WorkerSelector = map[string]string{"worker": "none"} })
	s.waitForTask(t, "unbound", "cannot be scheduled", func(t *batch.Task) bool {
		return meta.FindStatusCondition(t.Status.Conditions, batch.TaskScheduled) != nil
	})
	s.refused(t, "unbound", nil, http.StatusBadRequest, "there is no log of task unbound: it waits for a worker: ")
	s.create(t, "unstartable", "true", func(task *batch.Task) { task.Spec.Command = []string{"/no/such/program"} })
	s.finished(t, "unstartable")
	if got := s.read(t, "unstartable", nil); got != "" {
		t.Errorf("a command that does not exist: read %q", got)
	}

	s.fakeWorker(t, "without-abcde", nil)
	s.bindTo(t, "without", "without-abcde")
	s.refused(t, "without", nil, http.StatusServiceUnavailable, "worker without-abcde serves no logs: start it with --client-ca-file")
}

func (s *logsSuite) authorization(t *testing.T) {
	s.create(t, "secret", "echo secret; "+waitFor("end"))
	s.running(t, "secret", 1)
	defer s.touch(t, "end")
	for name, client := range map[string]typed.BatchV1alpha1Interface{
		"the worker itself":    kit.Client(t, s.env.Worker(t, s.namespace, logsWorker)).BatchV1alpha1(),
		"another worker":       kit.Client(t, s.env.Worker(t, s.namespace, "two-abcde")).BatchV1alpha1(),
		"the controllers":      kit.Client(t, s.env.Controller(t)).BatchV1alpha1(),
		"a user without roles": kit.Client(t, s.env.Person(t, "bob")).BatchV1alpha1(),
	} {
		if content, err := s.stream(t, client.Tasks(s.namespace), "secret", &batch.TaskLogOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("%s: read %q, %v, want 403", name, content, err)
		}
	}
	s.waitForLog(t, "secret", &batch.TaskLogOptions{}, "secret\n")
}

func (s *logsSuite) restarted(t *testing.T) {
	s.create(t, "before", "echo before")
	s.finished(t, "before")
	s.create(t, "twice", "echo attempt $TASK_ATTEMPT; "+waitFor("end"))
	s.running(t, "twice", 1)
	s.waitForLog(t, "twice", &batch.TaskLogOptions{}, "attempt 1\n")
	s.waitForFile(t, s.state, "twice")
	following := kit.Must(s.tasks.GetLogs("twice", &batch.TaskLogOptions{Follow: true}).Stream(t.Context()))(t)
	defer following.Close()
	// The end of a cordoned worker does not count as a crash. After a crash, a task runs alone on a worker.
	s.cordon(t, true)
	kit.Check(t, s.worker.Kill())
	if content, err := io.ReadAll(following); err == nil {
		t.Errorf("following until the worker was killed: read %q without an error", content)
	}
	s.refused(t, "twice", nil, http.StatusServiceUnavailable, "cannot be read from worker "+logsWorker, "connection refused")
	kit.Check(t, s.worker.Restart(t.Context()))
	s.cordon(t, false)
	s.running(t, "twice", 2)
	for previous, want := range map[bool]string{false: "attempt 2\n", true: "attempt 1\n"} {
		s.waitForLog(t, "twice", &batch.TaskLogOptions{Previous: previous}, want)
	}
	if got := s.read(t, "before", nil); got != "before\n" {
		t.Errorf("task that finished before the restart: read %q", got)
	}
	s.touch(t, "end")
}

// cordon cordons or uncordons the worker of the suite.
func (s *logsSuite) cordon(t *testing.T, cordoned bool) {
	patch := fmt.Appendf(nil, `{"spec": {"unschedulable": %t}}`, cordoned)
	kit.Must(s.api.Workers(s.namespace).Patch(t.Context(), logsWorker, types.MergePatchType, patch, metav1.PatchOptions{}))(t)
}

// waitForFile waits until the output of a task, which is in memory at first, is in a file of its worker.
func (s *logsSuite) waitForFile(t *testing.T, stateDir, name string) {
	t.Helper()
	task := kit.Must(s.tasks.Get(t.Context(), name, metav1.GetOptions{}))(t)
	kit.Eventually(t, "the output of "+name+" is in a file", func(context.Context) error {
		found := errors.New("there is none")
		err := filepath.WalkDir(stateDir, func(path string, _ fs.DirEntry, err error) error {
			if strings.HasPrefix(filepath.Base(path), string(task.UID)) && strings.HasSuffix(path, ".log") {
				found = nil
			}
			return nil
		})
		return cmp.Or(err, found)
	})
}

// removedDirectory removes the output of a task while the task runs: later output is kept, and a line names the gap.
func (s *logsSuite) removedDirectory(t *testing.T) {
	const other = "three-abcde"
	t.Cleanup(func() { // after its process has ended, so that no later task is bound to it
		kit.Check(t, s.api.Workers(s.namespace).Delete(context.WithoutCancel(t.Context()), other, metav1.DeleteOptions{}))
	})
	s.startWorker(t, other)
	s.create(t, "cleaned", "echo before; "+waitFor("removed")+"echo after", func(t *batch.Task) {
		t.Spec.WorkerSelector = map[string]string{"worker": other}
	})
	s.running(t, "cleaned", 1)
	s.waitForLog(t, "cleaned", &batch.TaskLogOptions{}, "before\n")
	s.waitForFile(t, s.dir, "cleaned")
	kit.Check(t, os.RemoveAll(filepath.Join(s.dir, "logs")))
	s.touch(t, "removed")
	s.finished(t, "cleaned")
	want := regexp.MustCompile(`^\[leat: the beginning [^\n]+\]\n\[leat: 7 bytes of output are missing here: the file with them was removed\]\nafter\n$`)
	if got := s.read(t, "cleaned", nil); !want.MatchString(got) {
		t.Errorf("read %q", got)
	}
}

func (s *logsSuite) moved(t *testing.T) {
	const other = "two-abcde"
	s.create(t, "moving", "echo attempt $TASK_ATTEMPT; "+waitFor("end")+"exit 1", func(task *batch.Task) { task.Spec.BackoffLimit = ptr.To[int32](0) })
	task := s.running(t, "moving", 1)
	second := s.startWorker(t, other)
	s.cordon(t, true)
	kit.Must(kit.Client(t, s.env.Controller(t)).BatchV1alpha1().Tasks(s.namespace).Evict(t.Context(), "moving", &batch.Eviction{
		ObjectMeta: metav1.ObjectMeta{Name: "moving", Namespace: s.namespace}, Reason: "Moved", Preconditions: &metav1.Preconditions{UID: &task.UID},
	}, metav1.CreateOptions{}))(t)
	if task := s.running(t, "moving", 2); task.Spec.WorkerName != other {
		t.Fatalf("got the task on %s, want it on two-abcde", task.Spec.WorkerName)
	}
	s.waitForLog(t, "moving", &batch.TaskLogOptions{}, "attempt 2\n")
	s.refused(t, "moving", &batch.TaskLogOptions{Previous: true}, http.StatusGone, "attempt 1: another worker ran it")
	s.touch(t, "end")
	s.finished(t, "moving")

	kit.Check(t, second.Kill())
	s.refused(t, "moving", nil, http.StatusServiceUnavailable, "cannot be read from worker "+other, "its last lines, from the status:\nattempt 2\n")
	kit.Check(t, s.api.Workers(s.namespace).Delete(t.Context(), other, metav1.DeleteOptions{}))
	s.refused(t, "moving", nil, http.StatusGone, "the log of task moving is gone: worker "+other, "its last lines, from the status:\nattempt 2\n")
	kit.Check(t, second.Restart(t.Context())) // so that the worker runs at the end of the test
}

func TestFakeClientsReadLogs(t *testing.T) {
	tasks := fake.NewClientset().BatchV1alpha1().Tasks("ns")
	content, err := tasks.GetLogs("x", &batch.TaskLogOptions{}).DoRaw(t.Context())
	if err != nil || string(content) != "fake logs" {
		t.Errorf("read %q, %v", content, err)
	}
}
