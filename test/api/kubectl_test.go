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

package api

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/yaml"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typedbatch "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// testKubectl uses every verb of kubectl, and sends bad input.
func testKubectl(t *testing.T, e *kit.Env) {
	for _, area := range []struct {
		name string
		test func(*testing.T, *kit.Env)
	}{
		{"Discovery", testKubectlDiscovery},
		{"Explain", testKubectlExplain},
		{"Columns", testKubectlColumns},
		{"Output", testKubectlOutput},
		{"Selectors", testKubectlSelectors},
		{"Watch", testKubectlWatch},
		{"Describe", testKubectlDescribe},
		{"Apply", testKubectlApply},
		{"ServerSideApply", testKubectlServerSideApply},
		{"Replace", testKubectlReplace},
		{"Patch", testKubectlPatch},
		{"LabelAndAnnotate", testKubectlLabelAndAnnotate},
		{"Scale", testKubectlScale},
		{"Wait", testKubectlWait},
		{"Delete", testKubectlDelete},
		{"Examples", testKubectlExamples},
		{"BadManifests", testKubectlBadManifests},
		{"BadRequests", testKubectlBadRequests},
	} {
		t.Run(area.name, func(t *testing.T) { area.test(t, e) })
	}
}

// timeout limits waits for what takes milliseconds on an idle machine.
const timeout = time.Minute

// terminal runs kubectl as a user, in a namespace.
type terminal struct {
	t          testing.TB
	e          *kit.Env
	namespace  string
	kubeconfig string
	client     dynamic.Interface
	stdin      string
}

// administrator is the user name of kit.Env.Admin.
const administrator = "alice"

// newTerminal returns a terminal of the administrator, in a namespace of the test.
func newTerminal(t testing.TB, e *kit.Env) terminal {
	t.Helper()
	namespace := e.Namespace(t)
	admin := e.Admin(t)
	return terminal{
		t: t, e: e, namespace: namespace, kubeconfig: e.Kubeconfig(t, admin, namespace), client: kit.Must(dynamic.NewForConfig(admin))(t),
	}
}

// withUser returns a terminal of another user.
func (k terminal) withUser(config *rest.Config) terminal {
	k.t.Helper()
	k.kubeconfig = k.e.Kubeconfig(k.t, config, k.namespace)
	return k
}

// withStdin returns a terminal whose commands read stdin.
func (k terminal) withStdin(stdin string) terminal {
	k.stdin = stdin
	return k
}

// run runs kubectl with the words of line and more arguments. It returns the standard output without the last newline.
// It fails the test at once if kubectl fails.
func (k terminal) run(line string, more ...string) string {
	k.t.Helper()
	out, _, err := k.execute(line, more...)
	if err != nil {
		k.t.Fatal(err)
	}
	return out
}

// execute runs kubectl as run does, and returns its outputs and its error.
func (k terminal) execute(line string, more ...string) (stdout, stderr string, err error) {
	k.t.Helper()
	stdout, stderr, err = k.e.Kubectl(k.t, k.kubeconfig, k.stdin, append(strings.Fields(line), more...)...)
	return strings.TrimSuffix(stdout, "\n"), stderr, err
}

// expectOutput checks that kubectl succeeds with this standard output.
func (k terminal) expectOutput(want, line string, more ...string) {
	k.t.Helper()
	if got := k.run(line, more...); got != want {
		k.t.Errorf("kubectl %s %s: got\n%s\nwant\n%s", line, more, got, want)
	}
}

// expectTable checks that kubectl succeeds and prints a table with these lines, with "T" in the place of times.
func (k terminal) expectTable(want []string, line string, more ...string) {
	k.t.Helper()
	if got, want := normalizeTable(k.run(line, more...)), strings.Join(want, "\n"); got != want {
		k.t.Errorf("kubectl %s %s: got\n%s\nwant\n%s", line, more, got, want)
	}
}

// expectFailure checks that kubectl exits with the status and prints each of the texts to standard error.
func (k terminal) expectFailure(status int, texts []string, line string, more ...string) {
	k.t.Helper()
	out, stderr, err := k.execute(line, more...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != status {
		k.t.Errorf("kubectl %s %s: got %v and output\n%s\nwant exit status %d", line, more, err, out, status)
	}
	for _, want := range texts {
		if !strings.Contains(stderr, want) {
			k.t.Errorf("kubectl %s %s: got standard error\n%s\nwant %q in it", line, more, stderr, want)
		}
	}
}

var times = regexp.MustCompile(`^(\d+[dhms])+$`)

// normalizeTable returns a printed table with columns one space apart and "T" in the place of times, which depend on
// the speed of the test.
func normalizeTable(out string) string {
	var lines []string
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		for i, word := range words {
			if times.MatchString(word) {
				words[i] = "T"
			}
		}
		lines = append(lines, strings.Join(words, " "))
	}
	return strings.Join(lines, "\n")
}

// session is a kubectl that runs in the background.
type session struct {
	t     testing.TB
	name  string
	lines chan string // of both outputs; closed after the last
	ended chan struct{}
	err   error // of the process; valid after ended is closed
}

// start runs kubectl in the background. The end of the test kills it.
func (k terminal) start(line string, more ...string) *session {
	k.t.Helper()
	root, err := host.RepositoryRoot()
	kit.Check(k.t, err)
	command := exec.CommandContext(k.t.Context(), filepath.Join(root, "bin", "host", "kubectl"), append(strings.Fields(line), more...)...)
	command.Env = append(os.Environ(), "KUBECONFIG="+k.kubeconfig, "KUBECACHEDIR="+k.t.TempDir())
	reader, writer := io.Pipe()
	command.Stdout, command.Stderr = writer, writer
	kit.Check(k.t, command.Start())
	s := &session{t: k.t, name: "kubectl " + line, lines: make(chan string, 10000), ended: make(chan struct{})}
	go func() {
		s.err = command.Wait()
		writer.Close()
		close(s.ended)
	}()
	go func() {
		defer close(s.lines)
		for scanner := bufio.NewScanner(reader); scanner.Scan(); {
			s.lines <- scanner.Text()
		}
		_, _ = io.Copy(io.Discard, reader) // after an error of the scanner, kubectl must not block
	}()
	k.t.Cleanup(func() { <-s.ended }) // until then, it writes to its cache
	return s
}

// waitFor reads lines until one matches. Lines are in the form of normalizeTable.
func (s *session) waitFor(matches func(string) bool) {
	s.t.Helper()
	var seen []string
	last := func() string { return strings.Join(seen[max(0, len(seen)-20):], "\n") }
	expired := time.After(timeout)
	for {
		select {
		case line, ok := <-s.lines:
			if !ok {
				s.t.Fatalf("%s exited before it printed the expected line; its last lines are\n%s", s.name, last())
			}
			seen = append(seen, normalizeTable(line))
			if matches(seen[len(seen)-1]) {
				return
			}
		case <-expired:
			s.t.Fatalf("%s has not printed the expected line; its last lines are\n%s", s.name, last())
		}
	}
}

// waitForLine reads until this line, in the form of normalizeTable.
func (s *session) waitForLine(want string) {
	s.t.Helper()
	s.waitFor(func(line string) bool { return line == want })
}

// waitForWatch waits until kubectl, which must run with -v=6, has opened a watch.
func (s *session) waitForWatch() {
	s.t.Helper()
	s.waitFor(func(line string) bool { return strings.Contains(line, "watch=true") })
}

// waitForExit waits until kubectl has exited with success.
func (s *session) waitForExit() {
	s.t.Helper()
	select {
	case <-s.ended:
		if s.err != nil {
			s.t.Errorf("%s: %v", s.name, s.err)
		}
	case <-time.After(timeout):
		s.t.Fatalf("%s has not exited", s.name)
	}
}

// manifest returns an object in YAML. The spec is in flow style.
func manifest(kind, name, spec string) string {
	return fmt.Sprintf("apiVersion: batch.leat.dev/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n", kind, name, spec)
}

// create creates an object as the administrator, without a process of kubectl.
func (k terminal) create(kind, name, spec string) {
	k.t.Helper()
	obj := &unstructured.Unstructured{}
	kit.Check(k.t, yaml.UnmarshalStrict([]byte(manifest(kind, name, spec)), &obj.Object))
	resource := batch.SchemeGroupVersion.WithResource(strings.ToLower(kind) + "s")
	kit.Must(k.client.Resource(resource).Namespace(k.namespace).Create(k.t.Context(), obj, metav1.CreateOptions{}))(k.t)
}

// createFiveTasks creates the tasks t-0 to t-4, with their parity in a label and in the name of their queue.
func createFiveTasks(k terminal) {
	k.t.Helper()
	var all strings.Builder
	for i := range 5 {
		fmt.Fprintf(&all, "---\napiVersion: batch.leat.dev/v1alpha1\nkind: Task\nmetadata: {name: t-%d, labels: {parity: '%d'}}\nspec: {command: [sleep], queueName: q-%d}\n", i, i%2, i%2)
	}
	k.withStdin(all.String()).run("create -f -")
}

// controllerClient returns the client of the controller manager.
func controllerClient(t testing.TB, e *kit.Env) typedbatch.BatchV1alpha1Interface {
	t.Helper()
	return kit.Client(t, e.Controller(t)).BatchV1alpha1()
}

// bindTo binds a task to a worker, as the scheduler does.
func bindTo(t testing.TB, tasks typedbatch.TaskInterface, name, worker string) {
	t.Helper()
	_, err := tasks.Bind(t.Context(), name, &batch.Binding{Target: batch.BindingTarget{Name: worker, Incarnation: "one"}}, metav1.CreateOptions{})
	kit.Check(t, err)
}

// updateTaskStatus changes the status of a task. It retries conflicts: the scheduler may write the status, too.
func updateTaskStatus(t testing.TB, tasks typedbatch.TaskInterface, name string, change func(*batch.TaskStatus)) {
	t.Helper()
	kit.Check(t, retry.RetryOnConflict(retry.DefaultRetry, func() error {
		task, err := tasks.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(&task.Status)
		_, err = tasks.UpdateStatus(t.Context(), task, metav1.UpdateOptions{})
		return err
	}))
}
