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
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// commandTimeout bounds a command, and the wait for a text on its terminal.
const commandTimeout = time.Minute

// cliSuite runs the command leat as a user of a namespace with two workers.
type cliSuite struct {
	fixture
	bin         string // directory with the program under all its names
	kubeconfig  string // of a user with the role edit
	adminConfig string // of an administrator
	workers     []string
	directory   string // working directory and home of the commands
	state       string // XDG_STATE_HOME of the commands
}

// cliStandalone runs all cases on the workers of leat up.
func cliStandalone(t *testing.T, e *kit.Env) {
	s := newCLISuite(t, e, "default", e.Admin(t))
	s.run(t, []cliCase{
		{"run returns the exit code of the task", (*cliSuite).oneTask},
		{"run sees the result of tasks with a TTL of zero", (*cliSuite).deletedAtOnce},
		{"output", (*cliSuite).prints},
		{"creators", (*cliSuite).creators},
		{"an array is one object", (*cliSuite).arrayIsOneObject},
		{"failed indexes are retried", (*cliSuite).retriesFailed},
		{"short commands", (*cliSuite).shortCommands},
		{"scripts", (*cliSuite).scripts},
		{"suspend and resume", (*cliSuite).suspends},
		{"cancel", (*cliSuite).cancels},
		{"a cancelled set keeps its results", (*cliSuite).cancelKeepsResults},
		{"update queue and priority of pending tasks", (*cliSuite).updates},
		{"drain", (*cliSuite).drains},
		{"interrupt without a terminal", (*cliSuite).interruptWithoutTerminal},
		{"each line of a file", (*cliSuite).eachLine},
		{"wait for several names", (*cliSuite).waitsForSeveral},
		{"wait for milestones", (*cliSuite).waitsForMilestones},
		{"list what changes", (*cliSuite).listsChanges},
		{"run shows why nothing starts", (*cliSuite).showsWhyNothingStarts},
		{"an ignored signal stays ignored", (*cliSuite).ignoresHangup},
		{"unread standard input", (*cliSuite).unreadInput},
		{"explain a pending task", (*cliSuite).explainsPendingTask},
		{"long lines of many tasks", (*cliSuite).longLines},
		{"interrupt on a terminal", (*cliSuite).interruptOnTerminal},
		{"progress on a terminal", (*cliSuite).progressOnTerminal},
		{"top", (*cliSuite).top},
		{"unknown names", (*cliSuite).unknownNames},
		{"shell completion", (*cliSuite).completes},
		{"tasks start in the working directory", (*cliSuite).startsInWorkingDirectory},
		{"leat up is found without a kubeconfig", (*cliSuite).findsLocalServer},
		{"explain a held queue", (*cliSuite).explainsHeldQueue},
		{"sets that wait for others", (*cliSuite).runsAfterOthers},
		{"cancel indexes", (*cliSuite).cancelsIndexes},
	})
}

// cliAggregated runs the cases that a host cluster can change: rights, watches and logs through the aggregator,
// garbage collection, and the plugin of kubectl.
func cliAggregated(t *testing.T, e *kit.Env) {
	f := newFixture(t, e, e.Namespace(t))
	f.startWorkers(t, map[string][]string{"one-abcde": {"--tasks=8"}, "two-abcde": {"--tasks=8"}})
	// As an administrator of a cluster does for the users of a namespace.
	kit.Must(e.HostClient(t).RbacV1().RoleBindings(f.namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "bob"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "bob"}},
	}, metav1.CreateOptions{}))(t)
	bob := e.Person(t, "bob")
	s := newCLISuite(t, e, f.namespace, bob)
	kit.Eventually(t, "bob may list task sets", func(ctx context.Context) error {
		_, err := kit.Client(t, bob).BatchV1alpha1().TaskSets(f.namespace).List(ctx, metav1.ListOptions{})
		return err
	})
	s.run(t, []cliCase{
		{"run returns the exit code of the task", (*cliSuite).oneTask},
		{"output", (*cliSuite).prints},
		{"creators", (*cliSuite).creators},
		{"failed indexes are retried", (*cliSuite).retriesFailed},
		{"suspend and resume", (*cliSuite).suspends},
		{"drain", (*cliSuite).drains},
		{"kubectl plugin", (*cliSuite).runsAsPlugin},
		{"forbidden", func(s *cliSuite, t *testing.T) {
			got := s.leat(t, "cordon", "one-abcde")
			got.expect(t, 1, "", `^Error from server \(Forbidden\): workers\.batch\.leat\.dev "one-abcde" is forbidden: User "bob" cannot patch`)
		}},
	})
}

type cliCase struct {
	name string
	run  func(*cliSuite, *testing.T)
}

func (s *cliSuite) run(t *testing.T, cases []cliCase) {
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) { test.run(s, t) })
	}
}

func newCLISuite(t *testing.T, e *kit.Env, namespace string, person *rest.Config) *cliSuite {
	t.Helper()
	s := &cliSuite{fixture: newFixture(t, e, namespace), bin: t.TempDir(), directory: t.TempDir(), state: t.TempDir()}
	s.kubeconfig, s.adminConfig = e.Kubeconfig(t, person, namespace), e.Kubeconfig(t, e.Admin(t), namespace)
	program := kit.Program(t, "leat")
	for _, name := range []string{"leat", "kubectl-leat", "kubectl_complete-leat"} {
		kit.Check(t, os.Symlink(program, filepath.Join(s.bin, name)))
	}
	kit.Eventually(t, "two workers are ready", func(ctx context.Context) error {
		list, err := s.api.Workers(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		s.workers = nil
		for _, w := range list.Items {
			if len(w.Status.Conditions) > 0 && w.Status.Conditions[0].Status == metav1.ConditionTrue {
				s.workers = append(s.workers, w.Name)
			}
		}
		if len(s.workers) < 2 {
			return fmt.Errorf("only %q are ready", s.workers)
		}
		return nil
	})
	return s
}

// result is the output and the exit code of a command.
type result struct {
	line, out, errOut string
	code              int
}

// expect fails the test if the exit code differs, or if a pattern matches no part of the output.
func (r result) expect(t *testing.T, code int, out, errOut string) {
	t.Helper()
	if r.code != code || !regexp.MustCompile(out).MatchString(r.out) || !regexp.MustCompile(errOut).MatchString(r.errOut) {
		t.Errorf("%s: got exit code %d, want %d\nstdout, want %s, got:\n%s\nstderr, want %s, got:\n%s", r.line, r.code, code, out, r.out, errOut, r.errOut)
	}
}

// command returns a command without a terminal. It is killed after commandTimeout.
func (s *cliSuite) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), commandTimeout)
	t.Cleanup(stop)
	command := exec.CommandContext(ctx, filepath.Join(s.bin, "leat"), args...)
	command.Dir = s.directory
	command.Env = append(os.Environ(), "KUBECONFIG="+s.kubeconfig, "XDG_STATE_HOME="+s.state, "HOME="+s.directory, "TERM=xterm", "NO_COLOR=1")
	// In a new session, /dev/tty is not the terminal of the test.
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return command
}

// finish returns the result of a command. wait runs the command to its end.
func finish(t *testing.T, command *exec.Cmd, wait func() error) result {
	t.Helper()
	r := result{line: strings.Join(command.Args[1:], " ")}
	var out, errOut bytes.Buffer
	command.Stdout, command.Stderr = &out, &errOut
	err := wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", r.line, err)
	}
	r.out, r.errOut, r.code = out.String(), errOut.String(), command.ProcessState.ExitCode()
	return r
}

// leat runs the program to its end, without a terminal.
func (s *cliSuite) leat(t *testing.T, args ...string) result {
	t.Helper()
	command := s.command(t, args...)
	return finish(t, command, command.Run)
}

// leatWith is leat with standard input.
func (s *cliSuite) leatWith(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	command := s.command(t, args...)
	command.Stdin = strings.NewReader(stdin)
	return finish(t, command, command.Run)
}

// admin is leat with the kubeconfig of an administrator.
func (s *cliSuite) admin(t *testing.T, args ...string) result {
	t.Helper()
	return s.leat(t, append([]string{"--kubeconfig", s.adminConfig}, args...)...)
}

// haveReady returns a condition that holds when n tasks of a set run.
func haveReady(n int32) func(*batch.TaskSet) bool {
	return func(set *batch.TaskSet) bool { return ptr.Deref(set.Status.Ready, 0) == n }
}

func (s *cliSuite) oneTask(t *testing.T) {
	s.leat(t, "run", "--name=succeeds", "--wait", "--", "true").
		expect(t, 0, `^task\.batch\.leat\.dev/succeeds created\n$`, `1/1 done, 0 failed.*\ntask/succeeds has succeeded in `)
	s.leat(t, "run", "--name=fails", "--wait", "--", "sh", "-c", "echo out of luck; exit 42").
		expect(t, 42, `created`, `task/fails has failed in .*: exit code 42\n  \| out of luck\n$`)
	s.leat(t, "run", "--wait", "--", "sh", "-c", "kill -9 $$$$").expect(t, 137, "created", `ended by signal 9 \(exit code 137\)`)
	s.leat(t, "run", "--wait", "--timeout=1s", "--", "sleep", "60").expect(t, 143, "created", `its time of 1s was over`)
	s.leat(t, "run", "--wait", "--", "no-such-program").expect(t, 127, "created", `the command could not be started\n  \| .*no-such-program`)
	s.leat(t, "run", "-o", "name", "--name=quiet", "--", "true").expect(t, 0, `^task\.batch\.leat\.dev/quiet\n$`, `^$`)
	s.leat(t, "run", "--name=quiet", "--", "true").expect(t, 1, `^$`, `^Error from server \(AlreadyExists\): .*"quiet" already exists\n$`)
	s.leat(t, "run", "--name=Not Valid", "--", "true").expect(t, 1, `^$`, `^Error from server \(Invalid\): .*metadata.name`)
	s.leat(t, "wait", "fails").expect(t, 42, "", "exit code 42")
	s.leat(t, "wait", "@latest").expect(t, 0, "", "task/quiet has succeeded")
	s.leat(t, "explain", "task/fails").expect(t, 0, `^task/fails has failed .* ago, after .*: exit code 42\.\n  Worker +\S+\n  Attempts +1, of at most 1\n  Last lines +\| out of luck\n  Next +leat logs task/fails; leat retry task/fails\n$`, "^$")
	s.leat(t, "retry", "fails", "--wait").expect(t, 42, `^task\.batch\.leat\.dev/fails-retry-1 created\n$`, "exit code 42")
	s.leat(t, "retry", "@latest").expect(t, 0, `^task\.batch\.leat\.dev/fails-retry-2 created\n$`, "^$")
	s.leat(t, "retry", "--failed", "succeeds").expect(t, 0, `^task\.batch\.leat\.dev/succeeds: nothing has failed\n$`, "^$")
	s.leat(t, "run", "--dry-run=server", "-o", "yaml", "--name=dry", "--", "true").expect(t, 0, `queueName: default`, "^$")
	s.leat(t, "wait", "dry").expect(t, 1, "^$", `no set and no task is named "dry"`)
}

// deletedAtOnce waits for tasks that are deleted as soon as they finish: the watch must not miss their result.
func (s *cliSuite) deletedAtOnce(t *testing.T) {
	for range 5 {
		s.leat(t, "run", "--ttl=0s", "--wait", "--", "sh", "-c", "exit 42").expect(t, 42, "created", `task/\S+ has failed in .*: exit code 42\n$`)
	}
	s.leat(t, "run", "--ttl=0s", "--array=3", "--wait", "--", "true").expect(t, 0, "created", `is complete: 3 of 3 succeeded`)
	s.leat(t, "run", "--ttl=0s", "--array=3", "--wait", "--", "false").expect(t, 1, "created", `has failed: 0 of 3 succeeded`)
}

func (s *cliSuite) waitsForSeveral(t *testing.T) {
	s.leat(t, "run", "--name=good", "--", "sleep", "1").expect(t, 0, "", "")
	s.leat(t, "run", "--name=good-set", "--array=2", "--", "sleep", "1").expect(t, 0, "", "")
	s.leat(t, "run", "--name=bad", "--", "sh", "-c", "exit 7").expect(t, 0, "", "")
	s.leat(t, "wait", "good", "good-set", "good").expect(t, 0, "^$", `(?s)task/good has succeeded.*taskset/good-set is complete|taskset/good-set is complete.*task/good has succeeded`)
	s.leat(t, "wait", "good", "bad").expect(t, 1, "^$", `(?s)task/bad has failed in .*: exit code 7.*2 done|1/2 done, 1 failed`)
	s.leat(t, "wait", "good", "nothing").expect(t, 1, "^$", `no set and no task is named "nothing"`)
}

func (s *cliSuite) listsChanges(t *testing.T) {
	command := s.command(t, "list", "--watch")
	var out buffer
	command.Stdout, command.Stderr = &out, &out
	kit.Check(t, command.Start())
	expect := func(pattern string) {
		t.Helper()
		line := regexp.MustCompile("(?m)^" + pattern)
		kit.Eventually(t, "a line is like "+pattern, func(context.Context) error {
			if text := out.String(); !line.MatchString(text) {
				return fmt.Errorf("the output is:\n%s", text)
			}
			return nil
		})
	}
	expect("NAME +STATE +PROGRESS")
	s.leat(t, "run", "--name=watched", "--wait", "--", "sh", "-c", "exit 3").expect(t, 3, "", "")
	expect("task/watched +Failed, exit 3 ")
	s.leat(t, "delete", "watched").expect(t, 0, "", "")
	expect("task/watched +Deleted ")
	kit.Check(t, command.Process.Signal(os.Interrupt))
	kit.Check(t, command.Wait())
}

func (s *cliSuite) waitsForMilestones(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "open")
	const script = `[ $TASK_INDEX != 0 ] || exit 3; while ! [ -e "$0" ]; do sleep 0.05; done`
	s.leat(t, "run", "--name=milestones", "--array=4", "--", "sh", "-c", script, gate).expect(t, 0, "", "")
	s.leat(t, "wait", "milestones", "--for=start").expect(t, 0, "^$", `taskset/milestones has started\n$`)
	s.leat(t, "wait", "milestones", "--for=failure").expect(t, 1, "^$", `taskset/milestones goes on: 1 of its tasks failed. Why: leat explain taskset/milestones\n$`)
	s.leat(t, "wait", "milestones", "--for=25%").expect(t, 0, "^$", `taskset/milestones goes on: 1 of 4 have ended, 1 failed\n$`)
	kit.Check(t, os.WriteFile(gate, nil, 0o600))
	s.leat(t, "wait", "milestones", "--for=end").expect(t, 1, "^$", `taskset/milestones has failed: 3 of 4 succeeded`)
	s.leat(t, "wait", "milestones", "--for=start").expect(t, 1, "^$", `taskset/milestones has failed: 3 of 4 succeeded`)
}

func (s *cliSuite) showsWhyNothingStarts(t *testing.T) {
	kit.Must(s.api.TaskQueues(s.namespace).Create(t.Context(), &batch.TaskQueue{
		ObjectMeta: metav1.ObjectMeta{Name: "narrow"}, Spec: batch.TaskQueueSpec{MaxPendingTasks: ptr.To[int32](0)},
	}, metav1.CreateOptions{}))(t)
	kit.Must(s.api.TaskQueues(s.namespace).Create(t.Context(), &batch.TaskQueue{
		ObjectMeta: metav1.ObjectMeta{Name: "closed"}, Spec: batch.TaskQueueSpec{StopPolicy: ptr.To(batch.StopPolicyHold)},
	}, metav1.CreateOptions{}))(t)
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"why-task":   {[]string{"--cpu=4000"}, `task/why-task waits: Unschedulable: 0/2 workers are available: 2 had insufficient cpu\.`},
		"why-queue":  {[]string{"--queue=closed"}, `task/why-queue waits: queue closed starts no tasks: its spec\.stopPolicy is Hold`},
		"why-set":    {[]string{"--array=2", "--cpu=4000"}, `taskset/why-set waits: Unschedulable: 0/2 workers are available`},
		"why-held":   {[]string{"--array=2", "--hold"}, `taskset/why-held waits: it is suspended: leat resume taskset/why-held starts it`},
		"why-create": {[]string{"--array=2", "--queue=narrow"}, `taskset/why-create waits: its tasks cannot be created: .*narrow`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			on, end := s.terminal(t, append(append([]string{"run", "--name=" + name, "--wait"}, test.args...), "--", "true")...)
			on.expect(t, test.want)
			on.send(t, "\x03")
			on.expect(t, question)
			on.send(t, "d\n")
			if code := end(); code != 130 {
				t.Errorf("got exit code %d, want 130", code)
			}
			s.leat(t, "cancel", "--now", name).expect(t, 0, "cancelled", "^$")
		})
	}
}

// ignoresHangup ignores SIGHUP, as nohup does.
func (s *cliSuite) ignoresHangup(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	command := s.command(t, "run", "--name=stays", "--wait", "--", "sh", "-c", "while ! [ -e "+mark+" ]; do sleep 0.05; done")
	command.Args = append([]string{"sh", "-c", `trap '' HUP; exec "$@"`, "sh", command.Path}, command.Args[1:]...)
	command.Path = kit.Must(exec.LookPath("sh"))(t)
	got := finish(t, command, func() error {
		kit.Check(t, command.Start())
		s.waitForTask(t, "stays", "runs", isRunning)
		kit.Check(t, command.Process.Signal(syscall.SIGHUP))
		kit.Check(t, os.WriteFile(mark, nil, 0o600))
		return command.Wait()
	})
	got.expect(t, 0, "created", "task/stays has succeeded")
}

func (s *cliSuite) unreadInput(t *testing.T) {
	s.leatWith(t, "data\n", "run", "--wait", "--", "cat").expect(t, 0, "created", "^warning: standard input is not empty, but tasks do not read it")
	s.leat(t, "run", "--wait", "--", "cat").expect(t, 0, "created", "^0/1 done")
}

// startsInWorkingDirectory relies on the workers of leat up, which share the files of the user.
func (s *cliSuite) startsInWorkingDirectory(t *testing.T) {
	kit.Check(t, os.MkdirAll(filepath.Join(s.directory, "below"), 0o700))
	here := func(args ...string) result {
		command := s.command(t, append([]string{"run", "--logs"}, args...)...)
		command.Env = append(command.Env, "KUBECONFIG="+filepath.Join(s.env.DataDir(), "kubeconfig"))
		return finish(t, command, command.Run)
	}
	here("--", "pwd").expect(t, 0, "^"+s.directory+"\n$", "created")
	here("--array=1", "--", "sh", "-c", "pwd; sleep 1").expect(t, 0, `\] `+s.directory+"\n$", "created")
	here("--workdir=below", "--", "pwd").expect(t, 0, "^"+s.directory+"/below\n$", "^The command starts in "+s.directory+"/below of the worker\\.\n")
	here("--workdir=/", "--", "pwd").expect(t, 0, "^/\n$", "created")
	if got := here("--workdir=", "--", "pwd"); got.code != 0 || got.out == s.directory+"\n" {
		t.Errorf("--workdir=: the task starts in %q: %s", got.out, got.errOut)
	}
	// This kubeconfig has no mark of leat up, like that of a cluster.
	if got := s.leat(t, "run", "--logs", "--", "pwd"); got.code != 0 || got.out == s.directory+"\n" {
		t.Errorf("with a kubeconfig without the mark, the task starts in %q: %s", got.out, got.errOut)
	}
}

func (s *cliSuite) prints(t *testing.T) {
	if s.env.Standalone() {
		s.leat(t, "run", "--name=prints", "--logs", "--", "sh", "-c", "echo one; sleep 0.3; echo two >&2").
			expect(t, 0, `^one\ntwo\n$`, `task\.batch\.leat\.dev/prints created`)
		s.leat(t, "logs", "prints").expect(t, 0, `^one\ntwo\n$`, `^$`)
		s.leat(t, "logs", "prints", "--tail=1").expect(t, 0, `^two\n$`, `^$`)
		s.leat(t, "logs", "prints", "--timestamps", "--limit-bytes=30").expect(t, 0, `^20\d\d-\d\d-\d\dT`, `^$`)
		s.leat(t, "logs", "-f", "prints").expect(t, 0, `^one\ntwo\n$`, `^$`)
		s.leat(t, "run", "--name=prints-all", "--array=6%2", "--logs", "--", "sh", "-c", "echo I am $(TASK_INDEX); sleep 0.5").
			expect(t, 0, `(?s)^(\[prints-all/\d\] I am \d\n){6}$`, `taskset/prints-all is complete`)
	} else {
		// These workers serve no logs: the last lines come from the status of the failed task.
		s.leat(t, "run", "--name=prints", "--wait", "--", "sh", "-c", "echo the end; exit 1").expect(t, 1, "", "")
		s.leat(t, "logs", "prints").expect(t, 0, `^the end\n$`, `^The output of task/prints cannot be read: worker \S+ serves no logs: .*\. Its last lines, from its status:\n$`)
	}
	s.leat(t, "run", "--name=not-yet", "--cpu=4000", "--", "true").expect(t, 0, "", "")
	s.leat(t, "logs", "not-yet").expect(t, 1, "^$", "has not been started yet, and has printed nothing: -f waits for it")
	s.leat(t, "cancel", "not-yet").expect(t, 0, `^task\.batch\.leat\.dev/not-yet cancelled and deleted\n$`, "^$")
}

func (s *cliSuite) arrayIsOneObject(t *testing.T) {
	begin := time.Now()
	s.leat(t, "run", "--name=large", "--array=0-99999%4", "--", "true").expect(t, 0, `^taskset\.batch\.leat\.dev/large created\n$`, `^$`)
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("creating a set of 100,000 took %s", took)
	}
	s.waitForTaskSet(t, "large", "some have succeeded", func(set *batch.TaskSet) bool { return set.Status.Succeeded > 10 })
	list := kit.Must(s.api.Tasks(s.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: batch.LabelTaskSetName + "=large"}))(t)
	if len(list.Items) > 200 {
		t.Errorf("got %d tasks at a time, want at most 200", len(list.Items))
	}
	s.leat(t, "explain", "@latest").expect(t, 0, `^taskset/large runs, for [^\n]*\n  Indexes +\d+ of 100000 succeeded, 0 failed`, "^$")
	// One request creates the set, and one watches it.
	got := s.leat(t, "cancel", "@latest")
	got.expect(t, 0, `^taskset\.batch\.leat\.dev/large cancelled \(\d+ of 100000 had succeeded\)\n$`, "^$")
	got = s.leat(t, "run", "--v=6", "--name=few", "--array=30", "--wait", "--", "true")
	got.expect(t, 0, "created", "taskset/few is complete: 30 of 30 succeeded")
	requests := regexp.MustCompile(`verb="?(\w+)"? url="?[^"]*/apis/batch\.leat\.dev/`).FindAllStringSubmatch(got.errOut, -1)
	if len(requests) != 2 || requests[0][1] != "POST" || requests[1][1] != "GET" {
		t.Errorf("got the requests %q, want one POST and one GET:\n%s", requests, got.errOut)
	}
}

func (s *cliSuite) retriesFailed(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	got := s.leat(t, "run", "--name=some", "--array=0-19%8", "--env=MARK="+mark, "--wait", "--", "sh", "-c",
		`case $TASK_INDEX in 3|17) test -e $MARK-$(JOB_COMPLETION_INDEX) || { touch $MARK-$(TASK_INDEX); echo not yet; exit 5; };; esac`)
	got.expect(t, 1, "^taskset.batch.leat.dev/some created\n$",
		`taskset/some has failed: 18 of 20 succeeded in .*: FailedIndexes: .*\nFailed: indexes 3,17\nIndex 3: exit code 5\n  \| not yet\nWhy: leat explain taskset/some\. Again: leat retry some\nOutput: leat logs taskset/some\. Of what failed: leat logs taskset/some --failed\n$`)
	s.leat(t, "wait", "some").expect(t, 1, "^$", "18 of 20")
	s.leat(t, "explain", "some").expect(t, 0, `(?s)^taskset/some has failed: FailedIndexes: .*  Failed +indexes 3,17\n.*  2 failed +exit code 5 \(indexes 3,17\)\n  Like index 3 +\| not yet\n.*Next +leat logs taskset/some; leat retry taskset/some\n$`, "^$")
	// A worker that serves no logs may still have records, for two seconds after its last task of the set.
	const unread = `^(warning: the records of worker \S+ cannot be read: it serves no logs: [^\n]*\n)*`
	s.leat(t, "logs", "some").expect(t, 0, `^\[some/3\] not yet\n\[some/17\] not yet\n$`, unread+"$")
	s.leat(t, "logs", "some/17").expect(t, 0, `^\[some/17\] not yet\n$`, "^$")
	s.leat(t, "logs", "some", "--index=4,17").expect(t, 0, `^\[some/17\] not yet\n$`, unread+"No output to show: index 4\\.\n$")
	s.leat(t, "logs", "some/20").expect(t, 2, `^$`, `taskset/some has no index 20: its indexes go from 0 to 19`)
	s.leat(t, "explain", "some/3").expect(t, 0, `(?s)^(task/some-3-\S+|taskset/some/3) has failed .*: exit code 5\.\n.*Last lines +\| not yet\n.*Set +taskset/some(, index 3)?\n$`, "^$")
	s.leat(t, "explain", "some", "--index=4").expect(t, 0, `^taskset/some/4 has succeeded\. Its task was deleted`, "^$")
	s.leat(t, "wait", "some/3").expect(t, 5, "^$", `taskset/some/3 has failed in .*: exit code 5\n`)
	s.leat(t, "wait", "taskset/some/4").expect(t, 0, "^$", `taskset/some/4 has succeeded\n`)
	s.leat(t, "suspend", "some/3").expect(t, 2, "^$", `only whole sets can be suspended and resumed`)
	s.leat(t, "cancel", "some").expect(t, 1, "^$", `^error: taskset/some has ended \(Failed\): there is nothing to cancel; leat delete taskset/some deletes it\n$`)
	// Retried indexes keep their numbers: those that failed find their marks now.
	s.leat(t, "retry", "@latest", "--index=0,17", "--wait").expect(t, 0, `^taskset\.batch\.leat\.dev/some-retry-1 created \(1 index of 20\)\n$`,
		`(?s)^Left out index 0, which has not failed: --all runs it again nevertheless\.\n.*some-retry-1 is complete: 1 of 1 succeeded.*\nOver all retries of taskset/some: 19 of 20 have succeeded in all \(some 18, some-retry-1 1\); not yet: index 3\nOutput: leat logs taskset/some-retry-1\n$`)
	s.leat(t, "explain", "some").expect(t, 0, `  Retries +19 of 20 have succeeded in all \(some 18, some-retry-1 1\); not yet: index 3\n`, "^$")
	s.leat(t, "retry", "--failed", "some-retry-1").expect(t, 0, "nothing has failed", "^$")
	// --backoff-limit counts per index.
	s.leat(t, "run", "--name=again", "--array=2", "--backoff-limit=1", "--wait", "--", "sh", "-c", `test $TASK_INDEX = 0 || test -e `+mark+` || { touch `+mark+`; exit 1; }`).
		expect(t, 0, "", "again is complete: 2 of 2 succeeded")
}

// shortCommands runs commands that share tasks. What a person sees is that of each index.
func (s *cliSuite) shortCommands(t *testing.T) {
	got := s.leat(t, "run", "--name=short", "--array=300", "--logs", "--", "sh", "-c", "echo I am $TASK_INDEX; test $TASK_INDEX != 270 || exit 4")
	got.expect(t, 1, `^(\[short/\d+\] I am \d+\n)+$`,
		`taskset/short has failed: 299 of 300 succeeded in .*: FailedIndexes: .*\nFailed: index 270\nIndex 270: exit code 4\n  \| I am 270\n`)
	seen := map[string]bool{}
	for line := range strings.Lines(got.out) {
		index, text, _ := strings.Cut(strings.TrimPrefix(line, "[short/"), "] ")
		if text != "I am "+index+"\n" || seen[line] {
			t.Errorf("the line %q is that of another index, or shown twice", line)
		}
		seen[line] = true
	}
	missed := 0
	if m := regexp.MustCompile(`(?m)^(\d+) index(?:es have| has) ended and been deleted before`).FindStringSubmatch(got.errOut); m != nil {
		missed = kit.Must(strconv.Atoi(m[1]))(t)
	}
	if len(seen)+missed != 300 {
		t.Errorf("got the output of %d indexes, and %d are said to be missing, of 300:\n%s", len(seen), missed, got.errOut)
	}
	s.leat(t, "wait", "short/270").expect(t, 4, "^$", `taskset/short/270 has failed in .*: exit code 4\n`)
	s.leat(t, "logs", "short/270").expect(t, 0, `^\[short/270\] I am 270\n$`, "^$")
	s.leat(t, "explain", "short/270").expect(t, 0, `^(task/short-270-\S+|taskset/short/270) has failed .*: exit code 4\.\n`, "^$")
	s.leat(t, "run", "--name=steps", "--array=10-30:10,7", "--wait", "--logs", "--", "sh", "-c", "echo $TASK_INDEX; test $TASK_INDEX != 20").
		expect(t, 1, `(?m)^\[steps/7\] 7$`, `Failed: index 20\n`)
	s.leat(t, "logs", "steps", "--index=10,20,30").expect(t, 0, `^\[steps/10\] 10\n\[steps/20\] 20\n\[steps/30\] 30\n$`, "")
	s.leat(t, "logs", "steps/11").expect(t, 2, "^$", "has no index 11")
	s.leat(t, "run", "--name=alone", "--array=50", "--chunk=1", "--wait", "--", "true").expect(t, 0, "created", "alone is complete: 50 of 50 succeeded")
}

// scripts runs scripts that workers do not have as files. Nothing in them is expanded but by their shell.
func (s *cliSuite) scripts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "step.sh")
	text := "#!/bin/sh -e\n#LEAT --array 10-30:10\n#LEAT --env=GREETING=hello  you\n" +
		`f() { echo "$GREETING: ${1:-none} {} $(echo "$TASK_INDEX") $0 $#"; test $$ -gt 1; }` + "\nf \"$@\"\n"
	kit.Check(t, os.WriteFile(file, []byte(text), 0o600))
	want := ""
	for _, index := range []string{"10", "20", "30"} {
		want += fmt.Sprintf("[script/%s] hello  you: at %s {} %s %s 1\n", index, index, index, file)
	}
	s.leat(t, "run", "--name=script", "--wait", file, "at $(TASK_INDEX)").expect(t, 0, "created", "script is complete: 3 of 3 succeeded")
	s.leat(t, "logs", "script", "--index=10,20,30").expect(t, 0, "^"+regexp.QuoteMeta(want)+"$", "")
	s.leat(t, "explain", "script").expect(t, 0, "taskset/script", "^$")
	s.leat(t, "run", "--name=one", "--array=5-5", "--wait", "--logs", file).expect(t, 0, `\[one/5\] hello  you: none {} 5 \S+ 0\n`, "")
}

func (s *cliSuite) eachLine(t *testing.T) {
	dir := t.TempDir()
	lines := "one\n\ntwo words\n$(TASK_NAME) $HOME $$ 'x'\n-flag\n"
	file := filepath.Join(dir, "lines")
	kit.Check(t, os.WriteFile(file, []byte(lines), 0o600))
	s.leat(t, "run", "--name=lines", "--each-line="+file, "--wait", "--", "sh", "-c", `printf '%s|%s\n' "$1" "$TASK_ITEM" > `+dir+`/$TASK_INDEX`, "sh").
		expect(t, 0, "created", `^Left out 1 empty line of .*/lines\.\n`)
	for i, want := range []string{"one", "two words", "$(TASK_NAME) $HOME $$ 'x'", "-flag"} {
		if got, err := os.ReadFile(fmt.Sprintf("%s/%d", dir, i)); err != nil || string(got) != want+"|"+want+"\n" {
			t.Errorf("line %d: the task printed %q, %v", i, got, err)
		}
	}
	s.leatWith(t, "a\nb\n", "run", "--name=stdin", "--each-line=-", "--wait", "--", "touch", dir+"/{}.done").expect(t, 0, "created", "2 of 2 succeeded")
	for _, name := range []string{"a", "b"} {
		if _, err := os.Stat(filepath.Join(dir, name+".done")); err != nil {
			t.Error(err)
		}
	}
	s.leatWith(t, "a\nb\n", "run", "--name=bad-lines", "--each-line=-", "--wait", "--", "test", "a", "=").
		expect(t, 1, "created", `Failed: index 1 \(item "b"\)`)
	s.leat(t, "retry", "bad-lines").expect(t, 0, `bad-lines-retry-1 created`, "^$")
	set := s.waitForTaskSet(t, "bad-lines-retry-1", "exists", func(*batch.TaskSet) bool { return true })
	if len(set.Spec.Items) != 1 || set.Spec.Items[0] != "b" {
		t.Errorf("got the items %q, want only b", set.Spec.Items)
	}
	// A retried item keeps its index.
	s.leatWith(t, "a\nb\n", "run", "--name=numbered", "--each-line=-", "--wait", "--", "sh", "-c", `echo $TASK_INDEX $JOB_COMPLETION_INDEX {}; test {} = a`).expect(t, 1, "created", "")
	s.leat(t, "retry", "numbered", "--wait").expect(t, 1, "created", `Failed: index 1 \(item "b"\)`)
	s.leat(t, "logs", "numbered-retry-1").expect(t, 0, `^\[numbered-retry-1/1\] 1 1 b\n$`, "^$")
}

func (s *cliSuite) suspends(t *testing.T) {
	s.leat(t, "run", "--name=pauses", "--array=4%2", "--", "sleep", "600").expect(t, 0, "", "")
	s.waitForTaskSet(t, "pauses", "two run", haveReady(2))
	s.leat(t, "suspend", "@latest").expect(t, 0, `^taskset\.batch\.leat\.dev/pauses suspended\n$`, "^$")
	s.waitForTaskSet(t, "pauses", "no task runs", haveReady(0))
	s.leat(t, "suspend", "pauses").expect(t, 0, `is suspended already`, "^$")
	s.leat(t, "explain", "pauses").expect(t, 0, `^taskset/pauses is suspended: it starts nothing until leat resume taskset/pauses\.\n`, "^$")
	s.leat(t, "resume", "tks/pauses").expect(t, 0, `^taskset\.batch\.leat\.dev/pauses resumed\n$`, "^$")
	s.waitForTaskSet(t, "pauses", "two run again", haveReady(2))
	s.leat(t, "resume", "pauses", "nothing").expect(t, 1, `is not suspended`, `no set is named "nothing" in namespace`)
	s.leat(t, "cancel", "--now", "pauses").expect(t, 0, `^taskset\.batch\.leat\.dev/pauses cancelled \(0 of 4 had succeeded\)\n$`, "^$")
	s.leat(t, "delete", "pauses").expect(t, 0, `^taskset\.batch\.leat\.dev/pauses deleted\n$`, "^$")
	s.leat(t, "wait", "pauses").expect(t, 1, "^$", `^error: no set and no task is named "pauses" in namespace`)
	s.leat(t, "wait", "@latest").expect(t, 1, "^$", `^error: @latest was taskset/pauses, and is deleted\n$`)
}

func (s *cliSuite) cancels(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	s.leat(t, "run", "--name=ends", "--", "sh", "-c", `trap 'touch `+mark+`; exit 0' TERM; while :; do sleep 0.05; done`).expect(t, 0, "", "")
	s.waitForTask(t, "ends", "runs", isRunning)
	s.leat(t, "cancel", "ends").expect(t, 0, `^task\.batch\.leat\.dev/ends cancelled and deleted\n$`, "^$")
	if _, err := os.Stat(mark); err != nil {
		t.Error("the command was not terminated gracefully:", err)
	}
	s.leat(t, "run", "--name=stubborn", "--array=2", "--", "sh", "-c", `trap '' TERM; echo $$$$ > `+mark+`; while :; do sleep 0.05; done`).expect(t, 0, "", "")
	s.waitForTaskSet(t, "stubborn", "both tasks run", haveReady(2))
	begin := time.Now()
	s.leat(t, "cancel", "--now", "stubborn").expect(t, 0, "cancelled", "^$")
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("--now took %s", took)
	}
	s.leat(t, "explain", "stubborn").expect(t, 0, `^taskset/stubborn was cancelled\n`, "^$")
	pid := kit.Must(strconv.Atoi(strings.TrimSpace(string(kit.Must(os.ReadFile(mark))(t)))))(t)
	kit.Eventually(t, "the commands have ended", func(context.Context) error {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("process %d: %v", pid, err)
		}
		return nil
	})
}

// cancelKeepsResults cancels a set whose tasks have partly succeeded and partly failed, and retries the rest.
func (s *cliSuite) cancelKeepsResults(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	s.leat(t, "run", "--name=kept", "--array=8%4", "--", "sh", "-c", `case $TASK_INDEX in 0|1) ;; 2) echo broken; exit 4;; *) test -e `+mark+` || sleep 600;; esac`).expect(t, 0, "", "")
	s.waitForTaskSet(t, "kept", "three have ended and four run", func(set *batch.TaskSet) bool { return set.Status.CompletedIndexes == "0,1" && haveReady(4)(set) })
	s.leat(t, "update", "kept", "--priority=3").expect(t, 1, "^$", `spec\.template\.spec\.priority: Invalid value: 3`)
	s.leat(t, "cancel", "kept").expect(t, 0, `^taskset\.batch\.leat\.dev/kept cancelled \(2 of 8 had succeeded\)\n$`, "^$")
	s.leat(t, "cancel", "kept").expect(t, 1, "^$", `taskset/kept has ended \(Cancelled\): there is nothing to cancel; leat delete taskset/kept deletes it`)
	s.leat(t, "wait", "kept").expect(t, 1, "^$", `taskset/kept was cancelled: 2 of 8 succeeded`)
	s.leat(t, "explain", "kept").expect(t, 0, `(?s)^taskset/kept was cancelled\n.*Indexes +2 of 8 succeeded, 1 failed, 5 not finished\n.*exit code 4 .*\| broken\n`, "^$")
	s.leat(t, "explain", "kept/7").expect(t, 0, `^taskset/kept/7 has no task, and has not succeeded: the set has ended: Cancelled`, "^$")
	kit.Check(t, os.WriteFile(mark, nil, 0o600))
	s.leat(t, "retry", "kept", "--wait").expect(t, 1, `^taskset\.batch\.leat\.dev/kept-retry-1 created \(6 indexes of 8\)\n$`,
		`(?s)5 of 6 succeeded.*Failed: index 2\n.*Over all retries of taskset/kept: 7 of 8 have succeeded in all \(kept 2, kept-retry-1 5\); not yet: index 2\nOutput: leat logs taskset/kept-retry-1\. Of what failed: [^\n]+\n$`)
	s.leat(t, "delete", "kept", "kept-retry-1").expect(t, 0, `kept deleted\n.*kept-retry-1 deleted\n`, "^$")
}

// updates changes the queue and the priority of a set. Its pending tasks follow.
func (s *cliSuite) updates(t *testing.T) {
	s.leat(t, "run", "--name=late", "--array=2", "--cpu=4000", "--", "true").expect(t, 0, "", "")
	s.leat(t, "update", "late", "--priority=5", "--queue=evening").expect(t, 0, `^taskset\.batch\.leat\.dev/late updated\n$`, "^$")
	kit.Eventually(t, "the tasks have moved to the queue", func(ctx context.Context) error {
		list, err := s.api.Tasks(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: batch.LabelTaskSetName + "=late", FieldSelector: "spec.queueName=evening"})
		if err == nil && (len(list.Items) != 2 || list.Items[0].Spec.Priority != 5) {
			err = fmt.Errorf("got %d tasks in the queue", len(list.Items))
		}
		return err
	})
	s.leat(t, "update", "late/1", "--priority=5").expect(t, 2, "^$", `late/1 is one index of a set: write taskset/late`)
	s.leat(t, "cancel", "late").expect(t, 0, "cancelled", "^$")
}

// longLines prints lines that are longer than any buffer, from eight tasks at a time: they must not mix.
func (s *cliSuite) longLines(t *testing.T) {
	got := s.leat(t, "run", "--name=long", "--array=8", "--logs", "--", "sh", "-c", `for i in 1 2 3; do head -c 200000 /dev/zero | tr '\0' $TASK_INDEX; echo; done; sleep 1`)
	if got.code != 0 {
		t.Errorf("got exit code %d: %s", got.code, got.errOut)
	}
	count := 0
	for line := range strings.Lines(got.out) {
		count++
		if text := strings.TrimSuffix(line[min(len("[long/0] "), len(line)):], "\n"); text != strings.Repeat(line[len("[long/"):len("[long/0")], 200_000) {
			t.Errorf("line %d of %d bytes begins with %.40q", count, len(line), line)
		}
	}
	if count != 24 {
		t.Errorf("got %d lines, want 24: %s", count, got.errOut)
	}
}

func (s *cliSuite) explainsPendingTask(t *testing.T) {
	s.leat(t, "run", "--name=huge", "--cpu=4000", "--worker-selector=disk=none", "--", "true").expect(t, 0, "", "")
	s.waitForTask(t, "huge", "has the condition Scheduled", func(task *batch.Task) bool {
		return meta.FindStatusCondition(task.Status.Conditions, batch.TaskScheduled) != nil
	})
	s.leat(t, "run", "--name=urgent", "--cpu=4000", "--priority=7", "--", "true").expect(t, 0, "", "")
	s.leat(t, "explain", "huge").expect(t, 0, `(?s)^task/huge waits for a worker, for [^\n]*\n  Scheduler +Unschedulable: 0/2 workers are available: [^\n]*\n`+
		`  Queue +default: 0 tasks run\n  Place +2 of 2 in its queue, by priority, then age\n  Workers +0 of 2 could take it now\n`+
		` +\S+ lacks the label disk=none; has \S+ cpu in all, and the task asks for 4k\n`, "^$")
	s.leat(t, "explain", "urgent").expect(t, 0, `Place +1 of 2 in its queue`, "^$")
	s.leat(t, "cancel", "huge", "task/urgent").expect(t, 0, `huge cancelled and deleted\n.*urgent cancelled and deleted\n`, "^$")
}

func (s *cliSuite) explainsHeldQueue(t *testing.T) {
	kit.Must(s.api.TaskQueues(s.namespace).Create(t.Context(), &batch.TaskQueue{
		ObjectMeta: metav1.ObjectMeta{Name: "night"},
		Spec:       batch.TaskQueueSpec{MaxRunningTasks: ptr.To[int32](0), StopPolicy: ptr.To(batch.StopPolicyHold)},
	}, metav1.CreateOptions{}))(t)
	s.leat(t, "run", "--name=held", "--queue=night", "--cpu=4000", "--", "true").expect(t, 0, "", "")
	s.leat(t, "explain", "held").expect(t, 0, `Queue +night: held: it starts no tasks until spec\.stopPolicy is None; full: 0 of at most 0 tasks run\n`, "^$")
	s.leat(t, "top", "--once").expect(t, 0, `\nnight +1 +0 +0 +1 +\S+ +Hold +-\n`, "^$")
	s.leat(t, "cancel", "held").expect(t, 0, "cancelled", "^$")
}

func (s *cliSuite) drains(t *testing.T) {
	s.leat(t, "run", "--name=moves", "--array=6", "--", "sleep", "600").expect(t, 0, "", "")
	s.waitForTaskSet(t, "moves", "six tasks run", haveReady(6))
	name := s.workers[0]
	s.admin(t, "drain", name).expect(t, 0, `^worker\.batch\.leat\.dev/`+name+` cordoned\nworker\.batch\.leat\.dev/`+name+` drained\n$`, `3/3 done`)
	kit.Eventually(t, "all tasks run on the other worker", func(ctx context.Context) error {
		list, err := s.api.Tasks(s.namespace).List(ctx, metav1.ListOptions{FieldSelector: "spec.workerName=" + s.workers[1] + ",status.phase=Running"})
		if err == nil && len(list.Items) != 6 {
			err = fmt.Errorf("got %d tasks, want 6", len(list.Items))
		}
		return err
	})
	list := kit.Must(s.api.Tasks(s.namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "spec.workerName=" + name + ",status.phase!=Failed,status.phase!=Succeeded"}))(t)
	if len(list.Items) != 0 {
		t.Errorf("%s still has %d tasks", name, len(list.Items))
	}
	s.admin(t, "cordon", name).expect(t, 0, "already cordoned", "^$")
	s.admin(t, "top", "--once").expect(t, 0, name+` +Ready,SchedulingDisabled +0/8`, "^$")
	s.admin(t, "uncordon", "worker/"+name).expect(t, 0, `uncordoned`, "^$")
	s.admin(t, "drain", s.workers[1], "--grace=1h", "--timeout=1s").expect(t, 1, "cordoned",
		`still has 6 tasks after 1s: it stays cordoned; run this again, or leat uncordon `+s.workers[1])
	s.admin(t, "uncordon", s.workers[1]).expect(t, 0, "uncordoned", "^$")

	s.admin(t, "worker", "deny", "stolen-0-abcde").expect(t, 0, `^worker\.batch\.leat\.dev/stolen-0-abcde denied\n$`, "^$")
	s.admin(t, "worker", "deny", "worker/stolen-0-abcde").expect(t, 0, "already denied", "^$")
	s.admin(t, "top", "--once").expect(t, 0, `stolen-0-abcde +NotReady,Denied +0/0`, "^$")
	s.admin(t, "worker", "allow", "stolen-0-abcde").expect(t, 0, " allowed", "^$")
	s.admin(t, "worker", "allow", "never-was").expect(t, 1, "^$", "not found")
	kit.Check(t, s.api.Workers(s.namespace).Delete(t.Context(), "stolen-0-abcde", metav1.DeleteOptions{}))
	s.leat(t, "cancel", "--now", "moves").expect(t, 0, "cancelled", "^$")
}

func (s *cliSuite) interruptWithoutTerminal(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"int": syscall.SIGINT, "term": syscall.SIGTERM} {
		command := s.command(t, "run", "--name=goes-on-"+name, "--array=2", "--wait", "--", "sleep", "600")
		got := finish(t, command, func() error {
			kit.Check(t, command.Start())
			s.waitForTaskSet(t, "goes-on-"+name, "both tasks run", haveReady(2))
			kit.Check(t, command.Process.Signal(sig))
			return command.Wait()
		})
		got.expect(t, 128+int(sig), "created", `\nDetached: taskset/goes-on-`+name+` goes on\. Come back with: leat wait taskset/goes-on-`+name+`\n$`)
		s.waitForTaskSet(t, "goes-on-"+name, "both tasks still run", haveReady(2))
		s.leat(t, "cancel", "--now", "goes-on-"+name).expect(t, 0, "cancelled", "^$")
	}
}

func (s *cliSuite) top(t *testing.T) {
	s.leat(t, "run", "--name=shown", "--array=5%2", "--", "sleep", "600").expect(t, 0, "", "")
	s.waitForTaskSet(t, "shown", "two run", haveReady(2))
	s.leat(t, "top").expect(t, 0, `(?s)^Namespace \S+: 2 of 2 workers ready, 2 tasks bound, 0 pending\n\nQUEUE .*\ndefault +1 +2 +none +0 .*\nWORKER .*`+
		s.workers[0]+` +Ready +1/8 .*\nSET .*\nshown +Running +0/5 +0 +2 +3 +- +-\n`, "^$")
	screen, end := s.terminal(t, "top", "--interval=200ms")
	screen.expect(t, `shown +Running +0/5`)
	screen.expect(t, `, 0/s ended`)
	screen.send(t, "\x03")
	if code := end(); code != 0 {
		t.Errorf("top: got exit code %d after Ctrl-C, want 0", code)
	}
	screen, end = s.terminal(t, "top")
	screen.expect(t, `shown +Running +0/5`)
	screen.send(t, "q")
	if code := end(); code != 0 {
		t.Errorf("top: got exit code %d after q, want 0", code)
	}
	s.leat(t, "cancel", "--now", "shown").expect(t, 0, "cancelled", "^$")
}

func (s *cliSuite) unknownNames(t *testing.T) {
	for _, args := range [][]string{{"logs", "nothing/3"}, {"explain", "nothing/3"}, {"suspend", "nothing"}} {
		s.leat(t, args...).expect(t, 1, "^$", `^error: no set is named "nothing" in namespace "`+s.namespace+`": kubectl get tks lists what there is; -n names another namespace\n$`)
	}
	s.leat(t, "explain", "nothing").expect(t, 1, "^$", `^error: no set and no task is named "nothing" in namespace "`+s.namespace+`": kubectl get tks,tk lists what there is; -n names another namespace\n$`)
	s.leat(t, "logs", "task/nothing").expect(t, 1, "^$", `^Error from server \(NotFound\): tasks\.batch\.leat\.dev "nothing" not found\n$`)
	s.leat(t, "logs", "pod/nothing").expect(t, 2, "^$", `write task/NAME, taskset/NAME or worker/NAME, or SET/INDEX`)
	s.leat(t, "suspend", "task/nothing").expect(t, 2, "^$", `"task/nothing" is not a set`)
	s.leat(t, "wait", "@last").expect(t, 2, "^$", `write @latest for what was made last, or a name`)
	s.admin(t, "drain", "nothing").expect(t, 1, "^$", `workers\.batch\.leat\.dev "nothing" not found`)
	s.leat(t, "wait", "@latest", "-n", s.namespace+"-other").expect(t, 1, "^$", `@latest: no task or set was created from this machine in namespace`)
	s.leat(t, "version").expect(t, 0, `^Client Version: v\S+\nServer Version: v\S+\n$`, "^$")
}

func (s *cliSuite) completes(t *testing.T) {
	s.leat(t, "run", "--name=completed", "--", "true").expect(t, 0, "", "")
	s.leat(t, "__complete", "logs", "task/comp").expect(t, 0, `^task/completed\n:4\n`, "")
	s.leat(t, "__complete", "wait", "@").expect(t, 0, `^@latest\n`, "")
	s.leat(t, "__complete", "cordon", s.workers[0][:4]).expect(t, 0, s.workers[0]+"\n", "")
	s.leat(t, "__complete", "run", "--arr").expect(t, 0, `^--array`, "")
}

func (s *cliSuite) findsLocalServer(t *testing.T) {
	data := t.TempDir()
	kit.Check(t, os.Mkdir(filepath.Join(data, "leat"), 0o700))
	kit.Check(t, os.Symlink(filepath.Join(s.env.DataDir(), "kubeconfig"), filepath.Join(data, "leat", "kubeconfig")))
	command := s.command(t, "run", "--wait", "--", "true")
	command.Env = append(command.Env, "KUBECONFIG=", "XDG_DATA_HOME="+data)
	finish(t, command, command.Run).expect(t, 0, "created", "has succeeded")
}

func (s *cliSuite) runsAsPlugin(t *testing.T) {
	kubectl := filepath.Join(kit.Must(host.RepositoryRoot())(t), "bin", "host", "kubectl")
	run := func(args ...string) result {
		command := s.command(t, args...)
		command.Path = kubectl
		command.Env = append(command.Env, "PATH="+s.bin+":"+os.Getenv("PATH"))
		return finish(t, command, command.Run)
	}
	run("plugin", "list").expect(t, 0, s.bin+"/kubectl-leat", "")
	run("leat", "run", "--name=plugged", "--array=3", "--wait", "--", "true").expect(t, 0, "created", "3 of 3 succeeded")
	run("leat", "logs").expect(t, 2, "^$", `Write: kubectl leat logs NAME\nSee 'kubectl leat logs --help'\.`)
	run("leat", "run", "--help").expect(t, 0, `\n  kubectl leat run --array 1000 --wait`, "^$")
	run("__complete", "leat", "drai").expect(t, 0, `drain`, "")
}
