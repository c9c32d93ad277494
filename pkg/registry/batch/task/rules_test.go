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

package task

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
)

func newTask(changes ...func(*batch.Task)) *batch.Task {
	task := &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "n"},
		Spec:       batch.TaskSpec{QueueName: "default", Command: []string{"true"}},
		Status:     batch.TaskStatus{Phase: batch.TaskPending},
	}
	for _, change := range changes {
		change(task)
	}
	return task
}

func texts(errs field.ErrorList) []string {
	var texts []string
	for _, err := range errs {
		texts = append(texts, err.Error())
	}
	return texts
}

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*batch.TaskSpec)
		want   []string
	}{
		{"a command is enough", func(*batch.TaskSpec) {}, nil},
		{
			"the program needs a name",
			func(spec *batch.TaskSpec) { spec.Command = []string{"", "a"} },
			[]string{`spec.command[0]: Required value: must name the program to run`},
		},
		{"arguments may be empty", func(spec *batch.TaskSpec) { spec.Args = []string{""} }, nil},
		{
			"a process takes no NUL",
			func(spec *batch.TaskSpec) {
				spec.Command = []string{"a", "b\x00"}
				spec.Args = []string{"\x00c"}
				spec.WorkingDir = "/\x00"
				spec.Env = []batch.EnvVar{{Name: "A", Value: "\x00"}}
			},
			[]string{
				`spec.command[1]: Invalid value: "b\x00": must not contain a NUL character`,
				`spec.args[0]: Invalid value: "\x00c": must not contain a NUL character`,
				`spec.workingDir: Invalid value: "/\x00": must not contain a NUL character`,
				`spec.env[0].value: Invalid value: "\x00": must not contain a NUL character`,
			},
		},
		{
			"a mebibyte is handed over, in all",
			func(spec *batch.TaskSpec) {
				spec.Args = []string{strings.Repeat("x", 1<<20-len("true")-2)}
				spec.Env = []batch.EnvVar{{Name: "A", Value: "b"}}
			},
			nil,
		},
		{
			"no more is handed over",
			func(spec *batch.TaskSpec) {
				spec.Args = []string{strings.Repeat("x", 1<<20-len("true")-2), "y"}
				spec.Env = []batch.EnvVar{{Name: "A", Value: "b"}}
			},
			[]string{`spec: Invalid value: command, args and env must be at most 1048576 bytes together, and are 1048577: pass more in a file that workers can read`},
		},
		{
			"variable names are as relaxed as a container's",
			func(spec *batch.TaskSpec) {
				spec.Env = []batch.EnvVar{{Name: "a.b-c/1"}, {Name: "a=b"}}
			},
			[]string{`spec.env[1].name: Invalid value: "a=b": a valid environment variable name must consist only of printable ASCII characters other than '='`},
		},
		{
			"requests name what workers have",
			func(spec *batch.TaskSpec) {
				spec.Resources.Requests = batch.ResourceList{
					"cpu": resource.MustParse("100m"), "memory": resource.MustParse("1Gi"), "example.com/gpu": resource.MustParse("1"),
				}
			},
			nil,
		},
		{
			"a task takes one place, not as many as it asks for",
			func(spec *batch.TaskSpec) {
				spec.Resources.Requests = batch.ResourceList{"tasks": resource.MustParse("2")}
			},
			[]string{`spec.resources.requests[tasks]: Unsupported value: "tasks": supported values: "cpu", "memory", "example.com/any-name"`},
		},
		{
			"a toleration without key is for all keys",
			func(spec *batch.TaskSpec) {
				spec.Tolerations = []batch.Toleration{{Operator: batch.TolerationOpExists}, {Value: "v"}}
			},
			[]string{`spec.tolerations[1].operator: Invalid value: "": must be Exists when key is empty, which means all keys`},
		},
		{
			"Exists compares no value",
			func(spec *batch.TaskSpec) {
				spec.Tolerations = []batch.Toleration{{Key: "k", Operator: batch.TolerationOpExists, Value: "v"}}
			},
			[]string{`spec.tolerations[0].value: Invalid value: "v": must be empty when operator is Exists`},
		},
		{
			"only NoExecute is tolerated for a time",
			func(spec *batch.TaskSpec) {
				spec.Tolerations = []batch.Toleration{
					{Key: "k", Effect: batch.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](1)},
					{Key: "k", Effect: batch.TaintEffectNoSchedule, TolerationSeconds: ptr.To[int64](1)},
				}
			},
			[]string{`spec.tolerations[1].effect: Invalid value: "NoSchedule": must be NoExecute when tolerationSeconds is set`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			task := newTask(func(task *batch.Task) { test.change(&task.Spec) })
			if diff := cmp.Diff(test.want, texts(Rules{}.Validate(t.Context(), task))); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestValidateChange(t *testing.T) {
	bound := func(task *batch.Task) { task.Spec.WorkerName = "w" }
	failed := func(task *batch.Task) { task.Status.Phase = batch.TaskFailed }
	place := func(task *batch.Task) { task.Spec.QueueName, task.Spec.Priority = "other", 7 }
	deadline := func(seconds int64) func(*batch.Task) {
		return func(task *batch.Task) { task.Spec.ActiveDeadlineSeconds = &seconds }
	}
	tolerations := func(list ...batch.Toleration) func(*batch.Task) {
		return func(task *batch.Task) { task.Spec.Tolerations = list }
	}
	a, b := batch.Toleration{Key: "a", Effect: batch.TaintEffectNoExecute}, batch.Toleration{Key: "b"}
	aForAMinute := a
	aForAMinute.TolerationSeconds = ptr.To[int64](60)
	for _, test := range []struct {
		name    string
		old, to *batch.Task
		want    []string
	}{
		{"a task is created", nil, newTask(), nil},
		{"a task that waits changes its place", newTask(), newTask(place), nil},
		{
			"a bound task does not", newTask(bound), newTask(bound, place),
			[]string{
				`spec.queueName: Invalid value: "other": must stay "default": it can change only while the task waits for a worker, and the task is bound to worker "w"`,
				`spec.priority: Invalid value: 7: must stay 0: it can change only while the task waits for a worker, and the task is bound to worker "w"`,
			},
		},
		{
			"nor does a finished one", newTask(failed), newTask(failed, place),
			[]string{
				`spec.queueName: Invalid value: "other": must stay "default": it can change only while the task waits for a worker, and the task has finished`,
				`spec.priority: Invalid value: 7: must stay 0: it can change only while the task waits for a worker, and the task has finished`,
			},
		},
		{"a bound task is changed elsewhere", newTask(bound), newTask(bound, deadline(1)), nil},
		{"a deadline is set", newTask(), newTask(deadline(9)), nil},
		{"a deadline is shortened", newTask(deadline(9)), newTask(deadline(8)), nil},
		{
			"a deadline is not put off", newTask(deadline(9)), newTask(deadline(10)),
			[]string{`spec.activeDeadlineSeconds: Invalid value: 10: must be less than or equal to its former value, 9`},
		},
		{
			"a deadline is not removed", newTask(deadline(9)), newTask(),
			[]string{`spec.activeDeadlineSeconds: Invalid value: null: must not be removed; it may be at most 9`},
		},
		{"tolerations are added", newTask(tolerations(a)), newTask(tolerations(b, a)), nil},
		{"a toleration's time is changed", newTask(tolerations(a)), newTask(tolerations(aForAMinute)), nil},
		{
			"tolerations are not removed", newTask(tolerations(a, b)), newTask(tolerations(b)),
			[]string{`spec.tolerations: Forbidden: may be added, not removed: "a" of effect "NoExecute" is missing`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, texts(Rules{}.ValidateChange(t.Context(), test.to, test.old))); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestFence(t *testing.T) {
	status := func(incarnation string, attempts int32) *batch.Task {
		return newTask(func(task *batch.Task) { task.Status.Incarnation, task.Status.Attempts = incarnation, attempts })
	}
	bindings := func(task *batch.Task, n int32) *batch.Task {
		task.Status.Bindings = n
		return task
	}
	for _, test := range []struct {
		name    string
		old, to *batch.Task
		want    string
	}{
		{"the worker it is bound to writes", status("i", 1), status("i", 1), ""},
		{"the next attempt is written", status("i", 1), status("i", 2), ""},
		{
			"another incarnation does not write", status("i", 1), status("j", 1),
			`the task is bound to incarnation "i", not "j": read it again`,
		},
		{
			"the worker of an evicted task does not write", status("", 1), status("i", 1),
			`the task is bound to incarnation "", not "i": read it again`,
		},
		{
			"nobody clears the incarnation", status("i", 1), status("", 1),
			`the task is bound to incarnation "i", not "": read it again`,
		},
		{
			"an earlier binding does not write", bindings(status("i", 0), 2), bindings(status("i", 0), 1),
			`the task has been bound 2 times, not 1: read it again`,
		},
		{"a client that does not know bindings writes", bindings(status("i", 0), 2), status("i", 1), ""},
		{"attempts do not go back", status("i", 2), status("i", 1), `the task is at attempt 2, past 1: read it again`},
		{"the next index starts with one attempt", chunk(3, nil, 2), chunk(4, nil, 1), ""},
		{"attempts at the same index do not go back", chunk(3, nil, 2), chunk(3, nil, 1), `the task is at attempt 2, past 1: read it again`},
		{"completed indexes do not go back", chunk(3, nil, 1), chunk(2, nil, 9), `the completedCount of the task is 3, past 2: read it again`},
		{"indexes are released", chunk(3, nil, 1), chunk(3, ptr.To[int32](4), 1), ""},
		{"more indexes are released", chunk(3, ptr.To[int32](6), 1), chunk(3, ptr.To[int32](5), 1), ""},
		{
			"released indexes are not taken back", chunk(3, ptr.To[int32](5), 1), chunk(3, ptr.To[int32](6), 1),
			`the indexLimit of the task is 5, and it never increases: read it again`,
		},
		{
			"nor all of them", chunk(3, ptr.To[int32](5), 1), chunk(3, nil, 1),
			`the indexLimit of the task is 5, and it never increases: read it again`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := Rules{}.FenceStatus(t.Context(), test.to, test.old)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !apierrors.IsConflict(err) || !strings.HasSuffix(err.Error(), test.want) {
				t.Errorf("got %v, want a conflict that ends in %q", err, test.want)
			}
		})
	}
}

func TestValidateStatusChange(t *testing.T) {
	in := func(phase batch.TaskPhase) *batch.Task {
		return newTask(func(task *batch.Task) { task.Status.Phase = phase })
	}
	started := func(t *metav1.Time) *batch.Task {
		return newTask(func(task *batch.Task) { task.Status.StartTime = t })
	}
	at := func(second int64) *metav1.Time { return ptr.To(metav1.Unix(second, 0)) }
	for _, test := range []struct {
		name    string
		old, to *batch.Task
		want    []string
	}{
		{"a task runs", in(batch.TaskPending), in(batch.TaskRunning), nil},
		{"a task waits again", in(batch.TaskRunning), in(batch.TaskPending), nil},
		{"a finished task stays so", in(batch.TaskFailed), in(batch.TaskFailed), nil},
		{
			"a failed task does not succeed", in(batch.TaskFailed), in(batch.TaskSucceeded),
			[]string{`status.phase: Invalid value: "Succeeded": must stay Failed: it is final`},
		},
		{
			"a succeeded task does not run", in(batch.TaskSucceeded), in(batch.TaskRunning),
			[]string{`status.phase: Invalid value: "Running": must stay Succeeded: it is final`},
		},
		{
			"only an eviction counts disruptions", newTask(), newTask(func(task *batch.Task) { task.Status.Disruptions = 1 }),
			[]string{`status.disruptions: Forbidden: is counted only through the eviction subresource`},
		},
		{
			"only an eviction counts crashes of workers", newTask(), newTask(func(task *batch.Task) { task.Status.WorkerCrashes = 1 }),
			[]string{`status.workerCrashes: Forbidden: is counted only through the eviction subresource`},
		},
		{"a task starts", started(nil), started(at(1)), nil},
		{"a start is the same in another form", started(at(1)), started(&metav1.Time{Time: at(1).UTC()}), nil},
		{
			"a task starts once", started(at(1)), started(at(2)),
			[]string{`status.startTime: Forbidden: must not change once it is set`},
		},
		{
			"a start is not forgotten", started(at(1)), started(nil),
			[]string{`status.startTime: Forbidden: must not change once it is set`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := texts(append(Rules{}.ValidateStatus(t.Context(), test.to), Rules{}.ValidateStatusChange(t.Context(), test.to, test.old)...))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestSecretWarnings(t *testing.T) {
	task := newTask(func(task *batch.Task) {
		task.Spec.Env = []batch.EnvVar{
			{Name: "HOME", Value: "/"}, {Name: "db_password", Value: "x"}, {Name: "API_TOKEN_SECRET", Value: "x"}, {Name: "TOKEN"},
		}
	})
	const text = " looks like a secret, and all users that may read tasks can read it: keep it in the worker's own environment or files"
	want := []string{"spec.env[1]: db_password" + text, "spec.env[2]: API_TOKEN_SECRET" + text}
	if diff := cmp.Diff(want, Rules{}.Warnings(t.Context(), task, nil)); diff != "" {
		t.Errorf("on create: want -, got +:\n%s", diff)
	}
	if got := (Rules{}).Warnings(t.Context(), task, task); got != nil {
		t.Errorf("on update: got %q, want none", got)
	}
}

func TestDeletionGracePeriod(t *testing.T) {
	bound := func(task *batch.Task) { task.Spec.WorkerName = "w" }
	own := func(seconds int64) func(*batch.Task) {
		return func(task *batch.Task) { task.Spec.TerminationGracePeriodSeconds = &seconds }
	}
	in := func(phase batch.TaskPhase) func(*batch.Task) {
		return func(task *batch.Task) { task.Status.Phase = phase }
	}
	for _, test := range []struct {
		name      string
		task      *batch.Task
		requested *int64
		want      int64
		ended     bool
	}{
		{"a task that waits goes at once", newTask(own(30)), nil, 0, false},
		{"even if time is asked for", newTask(own(30)), ptr.To[int64](10), 0, false},
		{"a bound task gets its own time", newTask(bound, own(30)), nil, 30, false},
		{"or what is asked for", newTask(bound, own(30)), ptr.To[int64](60), 60, false},
		{"or none", newTask(bound, own(30)), ptr.To[int64](0), 0, false},
		{"a bound task that never got a time goes at once", newTask(bound), nil, 0, false},
		{"a succeeded task goes at once", newTask(bound, own(30), in(batch.TaskSucceeded)), ptr.To[int64](10), 0, true},
		{"a failed task goes at once", newTask(bound, own(30), in(batch.TaskFailed)), nil, 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, ended := (Rules{}).DeletionGracePeriod(test.task, test.requested); got != test.want || ended != test.ended {
				t.Errorf("got %d, %t, want %d, %t", got, ended, test.want, test.ended)
			}
		})
	}
}

func TestPrepareForCreate(t *testing.T) {
	task := &batch.Task{}
	Rules{}.PrepareForCreate(context.Background(), task)
	if task.Status.Phase != batch.TaskPending {
		t.Errorf("got phase %q", task.Status.Phase)
	}
}

func TestOnlySubresourcesWriteTheWorker(t *testing.T) {
	for _, test := range []struct {
		name, stored, sent string
		warns              bool
	}{
		{"an exported task is created", "", "w", true},
		{"a manifest is written to a bound task", "w", "", false},
		{"a bound task is written as it was read", "w", "w", false},
		{"a bound task is written from its export", "w", "v", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var recorder warnings
			ctx := warning.WithWarningRecorder(t.Context(), &recorder)
			task := newTask(func(task *batch.Task) { task.Spec.WorkerName = test.sent })
			if test.stored == "" {
				Rules{}.PrepareForCreate(ctx, task)
			} else {
				Rules{}.PrepareForUpdate(ctx, task, newTask(func(task *batch.Task) { task.Spec.WorkerName = test.stored }))
			}
			if task.Spec.WorkerName != test.stored {
				t.Errorf("got worker %q, want %q", task.Spec.WorkerName, test.stored)
			}
			if warns := len(recorder) > 0; warns != test.warns || warns && !strings.HasPrefix(recorder[0], fmt.Sprintf("spec.workerName: %q is ignored", test.sent)) {
				t.Errorf("got warnings %q, want any: %t", recorder, test.warns)
			}
		})
	}
}

type warnings []string

// AddWarning implements warning.Recorder.
func (w *warnings) AddWarning(_, text string) { *w = append(*w, text) }
