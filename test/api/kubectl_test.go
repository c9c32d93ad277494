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
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typedbatch "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

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

// timeout bounds every wait for something that takes milliseconds on a machine that is not busy.
const timeout = time.Minute

// terminal is where a person types kubectl commands.
type terminal struct {
	t          testing.TB
	e          *kit.Env
	namespace  string
	kubeconfig string
	stdin      string
}

// open gives the administrator's terminal in a namespace of the test's own.
func open(t testing.TB, e *kit.Env) terminal {
	t.Helper()
	namespace := e.Namespace(t)
	return terminal{t: t, e: e, namespace: namespace, kubeconfig: e.Kubeconfig(t, e.Admin(t), namespace)}
}

// as gives the terminal of someone else.
func (k terminal) as(config *rest.Config) terminal {
	k.t.Helper()
	k.kubeconfig = k.e.Kubeconfig(k.t, config, k.namespace)
	return k
}

// with gives a terminal whose next commands read this on their standard input.
func (k terminal) with(stdin string) terminal {
	k.stdin = stdin
	return k
}

// run runs kubectl with the words of line and then, as they are, more arguments. It must succeed. What it printed is given
// without the last newline.
func (k terminal) run(line string, more ...string) string {
	k.t.Helper()
	out, _, err := k.try(line, more...)
	if err != nil {
		k.t.Fatal(err)
	}
	return out
}

func (k terminal) try(line string, more ...string) (stdout, stderr string, err error) {
	k.t.Helper()
	stdout, stderr, err = k.e.Kubectl(k.t, k.kubeconfig, k.stdin, append(strings.Fields(line), more...)...)
	return strings.TrimSuffix(stdout, "\n"), stderr, err
}

// says runs kubectl, which must succeed and print exactly this.
func (k terminal) says(want, line string, more ...string) {
	k.t.Helper()
	if got := k.run(line, more...); got != want {
		k.t.Errorf("kubectl %s %s printed\n%s\nwant\n%s", line, more, got, want)
	}
}

// shows runs kubectl, which must succeed and print a table with exactly these lines, where times are written as "T".
func (k terminal) shows(want []string, line string, more ...string) {
	k.t.Helper()
	if got, want := table(k.run(line, more...)), strings.Join(want, "\n"); got != want {
		k.t.Errorf("kubectl %s %s printed\n%s\nwant\n%s", line, more, got, want)
	}
}

// refuses runs kubectl, which must end with that status and say each of these on its standard error.
func (k terminal) refuses(status int, says []string, line string, more ...string) {
	k.t.Helper()
	out, stderr, err := k.try(line, more...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != status {
		k.t.Errorf("kubectl %s %s ended with %v and printed\n%s\nwant exit status %d", line, more, err, out, status)
	}
	for _, want := range says {
		if !strings.Contains(stderr, want) {
			k.t.Errorf("kubectl %s %s said\n%s\nwant %q in it", line, more, stderr, want)
		}
	}
}

var times = regexp.MustCompile(`^(\d+[dhms])+$`)

// table gives a printed table in a form that can be compared: columns one space apart, and times, which depend on how fast the
// test runs, as "T".
func table(out string) string {
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

// session is a kubectl that runs for as long as it likes.
type session struct {
	t     testing.TB
	name  string
	lines chan string // of both outputs; closed at the end
	ended chan struct{}
	err   error // how it ended; read after ended
}

// start runs kubectl in the background, until the test ends at the latest.
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
		_, _ = io.Copy(io.Discard, reader) // what no scanner takes must not hold kubectl back
	}()
	k.t.Cleanup(func() { <-s.ended }) // it writes to its cache until then
	return s
}

// until reads until a line, as table gives it, matches.
func (s *session) until(matches func(string) bool) {
	s.t.Helper()
	var seen []string
	last := func() string { return strings.Join(seen[max(0, len(seen)-20):], "\n") }
	late := time.After(timeout)
	for {
		select {
		case line, ok := <-s.lines:
			if !ok {
				s.t.Fatalf("%s ended before it printed what was waited for; the last that it printed is\n%s", s.name, last())
			}
			seen = append(seen, table(line))
			if matches(seen[len(seen)-1]) {
				return
			}
		case <-late:
			s.t.Fatalf("%s has not printed what was waited for; the last that it printed is\n%s", s.name, last())
		}
	}
}

// line reads until this line, as table gives it.
func (s *session) line(want string) {
	s.t.Helper()
	s.until(func(line string) bool { return line == want })
}

// watching reads until kubectl, at -v=6, has opened a watch.
func (s *session) watching() {
	s.t.Helper()
	s.until(func(line string) bool { return strings.Contains(line, "watch=true") })
}

// end waits until kubectl has ended by itself, with success.
func (s *session) end() {
	s.t.Helper()
	select {
	case <-s.ended:
		if s.err != nil {
			s.t.Errorf("%s: %v", s.name, s.err)
		}
	case <-time.After(timeout):
		s.t.Fatalf("%s still runs", s.name)
	}
}

// manifest gives an object of that kind and name, with a spec in YAML's flow form.
func manifest(kind, name, spec string) string {
	return fmt.Sprintf("apiVersion: batch.leat.dev/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n", kind, name, spec)
}

// five creates the tasks t-0 to t-4, with their parity as a label and in the name of their queue.
func five(k terminal) {
	k.t.Helper()
	var all strings.Builder
	for i := range 5 {
		fmt.Fprintf(&all, "---\napiVersion: batch.leat.dev/v1alpha1\nkind: Task\nmetadata: {name: t-%d, labels: {parity: '%d'}}\nspec: {command: [sleep], queueName: q-%d}\n", i, i%2, i%2)
	}
	k.with(all.String()).run("create -f -")
}

// controller gives the typed client of the controller manager.
func controller(t testing.TB, e *kit.Env) typedbatch.BatchV1alpha1Interface {
	t.Helper()
	return kit.Client(t, e.Controller(t)).BatchV1alpha1()
}

// bind binds a task as the scheduler does.
func bind(t testing.TB, tasks typedbatch.TaskInterface, name, worker string) {
	t.Helper()
	_, err := tasks.Bind(t.Context(), name, &batch.Binding{Target: batch.BindingTarget{Name: worker, Incarnation: "one"}}, metav1.CreateOptions{})
	kit.Check(t, err)
}

// report changes a task's status as its worker does. The scheduler may write between.
func report(t testing.TB, tasks typedbatch.TaskInterface, name string, change func(*batch.TaskStatus)) {
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
