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

package workerrestriction

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/leat-dev/leat/apis/batch"
)

var (
	own   = &user.DefaultInfo{Name: "leat:worker:ns:own", Groups: []string{"leat:workers", user.AllAuthenticated}}
	admin = &user.DefaultInfo{Name: "leat:worker:ns:own", Groups: []string{"system:masters", user.AllAuthenticated}}
)

func workerObject(name string, edit ...func(*batch.Worker)) *batch.Worker {
	w := &batch.Worker{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name, ResourceVersion: "7",
			Labels:          map[string]string{"zone": "a", LabelPrefix + "trusted": "yes"},
			Finalizers:      []string{"example.com/keep"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: name, UID: "1"}},
		},
		Spec: batch.WorkerSpec{Taints: []batch.Taint{{Key: "reserved", Effect: batch.TaintEffectNoSchedule}}},
	}
	for _, e := range edit {
		e(w)
	}
	return w
}

// newWorker returns a Worker that a worker may create: workerObject without the restricted label and the finalizer.
func newWorker(name string, edit ...func(*batch.Worker)) *batch.Worker {
	return workerObject(name, append([]func(*batch.Worker){func(w *batch.Worker) {
		delete(w.Labels, LabelPrefix+"trusted")
		w.Finalizers = nil
		w.Spec.Unschedulable = true
	}}, edit...)...)
}

func lease(name string, edit ...func(*batch.WorkerLease)) *batch.WorkerLease {
	l := &batch.WorkerLease{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{"zone": "a"}}}
	for _, e := range edit {
		e(l)
	}
	return l
}

func task(workerName string, edit ...func(*batch.Task)) *batch.Task {
	t := &batch.Task{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "task",
			Labels: map[string]string{"set": "a"}, Annotations: map[string]string{"note": "a"}, Finalizers: []string{"example.com/keep"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch.leat.dev/v1alpha1", Kind: "TaskSet", Name: "a", UID: "1"}},
		},
		Spec: batch.TaskSpec{WorkerName: workerName, Command: []string{"true"}},
	}
	for _, e := range edit {
		e(t)
	}
	return t
}

func deleted(t *batch.Task) {
	now := metav1.Now()
	t.DeletionTimestamp = &now
}

func TestWorkersAreRestricted(t *testing.T) {
	const create, update, remove, connect = admission.Create, admission.Update, admission.Delete, admission.Connect
	for name, test := range map[string]struct {
		operation           admission.Operation
		resource, namespace string
		objectName          string // "own" if empty
		object, old         runtime.Object
		user                user.Info // own if nil
		group               string    // ours if empty
		forbidden           string    // "" if it is allowed
	}{
		"registers itself":                        {operation: create, resource: "workers", object: newWorker("own")},
		"registers another":                       {operation: create, resource: "workers", object: newWorker("other"), forbidden: "metadata.name"},
		"registers another under its name":        {operation: create, resource: "workers", objectName: "own", object: newWorker("other"), forbidden: "metadata.name"},
		"registers in another namespace":          {operation: create, resource: "workers", namespace: "other", object: newWorker("own"), forbidden: `namespace "ns"`},
		"registers in no namespace":               {operation: create, resource: "workers", namespace: "-", object: newWorker("own"), forbidden: `namespace "ns"`},
		"registers with a restricted label":       {operation: create, resource: "workers", object: newWorker("own", func(w *batch.Worker) { w.Labels[LabelPrefix+"trusted"] = "" }), forbidden: "metadata.labels"},
		"registers with a label that looks alike": {operation: create, resource: "workers", object: newWorker("own", func(w *batch.Worker) { w.Labels["worker-restriction/x"] = "y" })},
		"registers with a finalizer":              {operation: create, resource: "workers", object: newWorker("own", func(w *batch.Worker) { w.Finalizers = []string{"a.b/c"} }), forbidden: "metadata.finalizers"},
		"creates its lease":                       {operation: create, resource: "workerleases", object: lease("own")},
		"creates another's lease":                 {operation: create, resource: "workerleases", object: lease("other"), forbidden: "metadata.name"},
		"creates a lease with a finalizer":        {operation: create, resource: "workerleases", object: lease("own", func(l *batch.WorkerLease) { l.Finalizers = []string{"a.b/c"} }), forbidden: "metadata.finalizers"},

		"updates itself": {operation: update, resource: "workers", old: workerObject("own"), object: workerObject("own", func(w *batch.Worker) {
			w.Labels["zone"], w.Labels["pool"], w.Annotations = "b", "c", map[string]string{"note": "a"}
		})},
		"updates another":                     {operation: update, resource: "workers", old: workerObject("other"), object: workerObject("other"), forbidden: "metadata.name"},
		"removes a taint":                     {operation: update, resource: "workers", old: workerObject("own"), object: workerObject("own", func(w *batch.Worker) { w.Spec.Taints = nil }), forbidden: "spec.taints"},
		"changes a taint":                     {operation: update, resource: "workers", old: workerObject("own"), object: workerObject("own", func(w *batch.Worker) { w.Spec.Taints[0].Effect = batch.TaintEffectPreferNoSchedule }), forbidden: "spec.taints"},
		"cordons itself":                      {operation: update, resource: "workers", old: workerObject("own"), object: workerObject("own", func(w *batch.Worker) { w.Spec.Unschedulable = true }), forbidden: "spec.unschedulable"},
		"denies itself":                       {operation: update, resource: "workers", old: workerObject("own"), object: workerObject("own", func(w *batch.Worker) { w.Spec.Denied = true }), forbidden: "spec.denied"},
		"registers itself denied":             {operation: create, resource: "workers", object: newWorker("own", func(w *batch.Worker) { w.Spec.Denied = true }), forbidden: "spec.denied"},
		"allows itself":                       {operation: update, resource: "workers", old: workerObject("own", func(w *batch.Worker) { w.Spec.Denied = true }), object: workerObject("own"), forbidden: "spec.denied"},
		"uncordons itself":                    {operation: update, resource: "workers", old: workerObject("own", func(w *batch.Worker) { w.Spec.Unschedulable = true }), object: workerObject("own"), forbidden: "spec.unschedulable"},
		"disowns itself":                      {operation: update, resource: "workers", old: workerObject("own"), object: workerObject("own", func(w *batch.Worker) { w.OwnerReferences = nil }), forbidden: "metadata.ownerReferences"},
		"changes its owner":                   {operation: update, resource: "workers", old: workerObject("own"), object: workerObject("own", func(w *batch.Worker) { w.OwnerReferences[0].UID = "gone" }), forbidden: "metadata.ownerReferences"},
		"removes a finalizer":                 {operation: update, resource: "workers", old: workerObject("own"), object: workerObject("own", func(w *batch.Worker) { w.Finalizers = nil }), forbidden: "metadata.finalizers"},
		"adds a finalizer":                    {operation: update, resource: "workers", old: workerObject("own"), object: workerObject("own", func(w *batch.Worker) { w.Finalizers = append(w.Finalizers, "a.b/c") }), forbidden: "metadata.finalizers"},
		"adds a restricted label":             {operation: update, resource: "workers", old: workerObject("own"), object: workerObject("own", func(w *batch.Worker) { w.Labels[LabelPrefix+"new"] = "" }), forbidden: LabelPrefix + "new"},
		"changes a restricted label":          {operation: update, resource: "workers", old: workerObject("own"), object: workerObject("own", func(w *batch.Worker) { w.Labels[LabelPrefix+"trusted"] = "no" }), forbidden: LabelPrefix + "trusted"},
		"removes a restricted label":          {operation: update, resource: "workers", old: workerObject("own"), object: workerObject("own", func(w *batch.Worker) { w.Labels = nil }), forbidden: LabelPrefix + "trusted"},
		"updates its status":                  {operation: update, resource: "workers/status", old: workerObject("own"), object: workerObject("own", func(w *batch.Worker) { w.Status.RunningTasks = 3 })},
		"updates another's status":            {operation: update, resource: "workers/status", old: workerObject("other"), object: workerObject("other"), forbidden: "metadata.name"},
		"removes a taint by its status":       {operation: update, resource: "workers/status", old: workerObject("own"), object: workerObject("own", func(w *batch.Worker) { w.Spec.Taints = nil }), forbidden: "spec.taints"},
		"renews its lease":                    {operation: update, resource: "workerleases", old: lease("own"), object: lease("own", func(l *batch.WorkerLease) { l.Spec.HolderIdentity = "i" })},
		"renews another's lease":              {operation: update, resource: "workerleases", old: lease("other"), object: lease("other"), forbidden: "metadata.name"},
		"gives its lease an owner":            {operation: update, resource: "workerleases", old: lease("own"), object: lease("own", func(l *batch.WorkerLease) { l.OwnerReferences = []metav1.OwnerReference{{Name: "x"}} }), forbidden: "metadata.ownerReferences"},
		"labels its lease restricted":         {operation: update, resource: "workerleases", old: lease("own"), object: lease("own", func(l *batch.WorkerLease) { l.Labels[LabelPrefix+"x"] = "" }), forbidden: LabelPrefix + "x"},
		"stores a lease over a worker":        {operation: update, resource: "workers", old: lease("own"), object: workerObject("own"), forbidden: "must not change"},
		"deletes itself":                      {operation: remove, resource: "workers", old: workerObject("own"), forbidden: "may not delete workers"},
		"deletes its lease":                   {operation: remove, resource: "workerleases", old: lease("own"), forbidden: "may not delete workerleases"},
		"reports on its task":                 {operation: update, resource: "tasks/status", objectName: "task", old: task("own"), object: task("own", func(t *batch.Task) { t.Status.Phase = batch.TaskRunning })},
		"reports on another's task":           {operation: update, resource: "tasks/status", objectName: "task", old: task("other"), object: task("other"), forbidden: "spec.workerName"},
		"takes another's task":                {operation: update, resource: "tasks/status", objectName: "task", old: task("other"), object: task("own"), forbidden: "spec.workerName"},
		"reports on an unbound task":          {operation: update, resource: "tasks/status", objectName: "task", old: task(""), object: task(""), forbidden: "spec.workerName"},
		"gives its task away":                 {operation: update, resource: "tasks/status", objectName: "task", old: task("own"), object: task("other"), forbidden: "spec must not change"},
		"changes the command of its task":     {operation: update, resource: "tasks/status", objectName: "task", old: task("own"), object: task("own", func(t *batch.Task) { t.Spec.Command = []string{"false"} }), forbidden: "spec must not change"},
		"labels its task":                     {operation: update, resource: "tasks/status", objectName: "task", old: task("own"), object: task("own", func(t *batch.Task) { t.Labels["set"] = "b" }), forbidden: "metadata.labels"},
		"annotates its task":                  {operation: update, resource: "tasks/status", objectName: "task", old: task("own"), object: task("own", func(t *batch.Task) { t.Annotations = nil }), forbidden: "metadata.annotations"},
		"disowns its task":                    {operation: update, resource: "tasks/status", objectName: "task", old: task("own"), object: task("own", func(t *batch.Task) { t.OwnerReferences = nil }), forbidden: "metadata.ownerReferences"},
		"removes its task's finalizer":        {operation: update, resource: "tasks/status", objectName: "task", old: task("own"), object: task("own", func(t *batch.Task) { t.Finalizers = nil }), forbidden: "metadata.finalizers"},
		"reports on something else":           {operation: update, resource: "tasks/status", objectName: "task", old: workerObject("own"), object: task("own"), forbidden: "must be a Task"},
		"sends a segment":                     {operation: connect, resource: "workers/archive", object: &batch.WorkerArchiveOptions{}},
		"sends a segment of another":          {operation: connect, resource: "workers/archive", objectName: "other", object: &batch.WorkerArchiveOptions{}, forbidden: "not those of worker other"},
		"sends a segment elsewhere":           {operation: connect, resource: "workers/archive", namespace: "other", object: &batch.WorkerArchiveOptions{}, forbidden: `namespace "ns"`},
		"evicts":                              {operation: create, resource: "tasks/eviction", objectName: "task", object: &batch.Eviction{Preconditions: &metav1.Preconditions{ResourceVersion: new("7")}}},
		"evicts without precondition":         {operation: create, resource: "tasks/eviction", objectName: "task", object: &batch.Eviction{}, forbidden: "preconditions.resourceVersion must be set"},
		"finishes the deletion of its task":   {operation: remove, resource: "tasks", objectName: "task", old: task("own", deleted)},
		"deletes its task":                    {operation: remove, resource: "tasks", objectName: "task", old: task("own"), forbidden: "metadata.deletionTimestamp"},
		"finishes another's deletion":         {operation: remove, resource: "tasks", objectName: "task", old: task("other", deleted), forbidden: "spec.workerName"},
		"deletes without the stored object":   {operation: remove, resource: "tasks", objectName: "task", forbidden: "must be a Task"},
		"creates a task":                      {operation: create, resource: "tasks", objectName: "task", object: task(""), forbidden: "may not create tasks"},
		"updates its task":                    {operation: update, resource: "tasks", objectName: "task", old: task("own"), object: task("own"), forbidden: "may not update tasks"},
		"binds a task":                        {operation: create, resource: "tasks/binding", objectName: "task", object: &batch.Binding{}, forbidden: "may not create tasks/binding"},
		"reads a log":                         {operation: connect, resource: "tasks/log", objectName: "task", forbidden: "may not connect tasks/log"},
		"creates a set":                       {operation: create, resource: "tasksets", object: &batch.TaskSet{}, forbidden: "may not create tasksets"},
		"updates a queue's status":            {operation: update, resource: "taskqueues/status", object: &batch.TaskQueue{}, old: &batch.TaskQueue{}, forbidden: "may not update taskqueues/status"},
		"writes to another group":             {operation: create, resource: "workers", group: "example.com", object: newWorker("own"), forbidden: "resources of batch.leat.dev"},
		"is in the group, with another name":  {operation: create, resource: "workers", user: &user.DefaultInfo{Name: "x", Groups: own.Groups}, object: newWorker("own"), forbidden: "must be named"},
		"is in the group, with a broken name": {operation: create, resource: "workers", user: &user.DefaultInfo{Name: "leat:worker:ns:", Groups: own.Groups}, object: newWorker(""), forbidden: "must be named"},
	} {
		t.Run(name, func(t *testing.T) {
			resource, subresource, _ := strings.Cut(test.resource, "/")
			group, namespace, objectName, by := batch.GroupName, "ns", "own", user.Info(own)
			if test.group != "" {
				group = test.group
			}
			if test.namespace != "" {
				namespace = strings.Trim(test.namespace, "-")
			}
			if test.objectName != "" {
				objectName = test.objectName
			}
			if test.user != nil {
				by = test.user
			}
			attributes := func(by user.Info) admission.Attributes {
				gv := schema.GroupVersion{Group: group, Version: "v1alpha1"}
				return admission.NewAttributesRecord(test.object, test.old, gv.WithKind("Any"), namespace, objectName, gv.WithResource(resource), subresource, test.operation, nil, false, by)
			}

			plugin := New()
			if !plugin.Handles(test.operation) {
				t.Fatalf("%s is not handled", test.operation)
			}
			err := plugin.Validate(t.Context(), attributes(by), nil)
			switch {
			case test.forbidden == "" && err != nil:
				t.Errorf("got %v, want it to be allowed", err)
			case test.forbidden != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), test.forbidden)):
				t.Errorf("got %v, want it to be forbidden for %q", err, test.forbidden)
			}
			if err := plugin.Validate(t.Context(), attributes(admin), nil); err != nil {
				t.Errorf("another user: got %v", err)
			}
		})
	}
}
