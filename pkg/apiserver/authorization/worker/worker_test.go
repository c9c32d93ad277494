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

package worker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/kinds"
)

func workerUser(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}
}

var own = workerUser("leat:worker:ns:own", v1alpha1.WorkersGroup)

func TestIdentity(t *testing.T) {
	for name, test := range map[string]struct {
		user            user.Info
		namespace, name string
		ok              bool
	}{
		"a worker":                     {own, "ns", "own", true},
		"a name with dots, as of pods": {workerUser("leat:worker:ns:pool-1.a-x7k2p", v1alpha1.WorkersGroup), "ns", "pool-1.a-x7k2p", true},
		"nobody":                       {nil, "", "", false},
		"not in the group":             {workerUser("leat:worker:ns:own"), "", "", false},
		"in another group":             {workerUser("leat:worker:ns:own", "leat:worker"), "", "", false},
		"another name":                 {workerUser("system:node:own", v1alpha1.WorkersGroup), "", "", false},
		"only the prefix":              {workerUser("leat:worker:", v1alpha1.WorkersGroup), "", "", false},
		"no name":                      {workerUser("leat:worker:ns", v1alpha1.WorkersGroup), "", "", false},
		"an empty name":                {workerUser("leat:worker:ns:", v1alpha1.WorkersGroup), "", "", false},
		"an empty namespace":           {workerUser("leat:worker::own", v1alpha1.WorkersGroup), "", "", false},
		"three parts":                  {workerUser("leat:worker:ns:own:other", v1alpha1.WorkersGroup), "", "", false},
		"a namespace that is a path":   {workerUser("leat:worker:../ns:own", v1alpha1.WorkersGroup), "", "", false},
		"a namespace with dots":        {workerUser("leat:worker:n.s:own", v1alpha1.WorkersGroup), "", "", false},
		"a name that is a path":        {workerUser("leat:worker:ns:own/status", v1alpha1.WorkersGroup), "", "", false},
		"capitals":                     {workerUser("leat:worker:ns:OWN", v1alpha1.WorkersGroup), "", "", false},
		"a name that is too long":      {workerUser("leat:worker:ns:"+strings.Repeat("a", 254), v1alpha1.WorkersGroup), "", "", false},
		"a prefix in capitals":         {workerUser("Leat:worker:ns:own", v1alpha1.WorkersGroup), "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			namespace, name, ok := Identity(test.user)
			if namespace != test.namespace || name != test.name || ok != test.ok {
				t.Errorf("got %q, %q, %v, want %q, %q, %v", namespace, name, ok, test.namespace, test.name, test.ok)
			}
		})
	}
}

// newAuthorizer returns an authorizer for workers that are all allowed.
func newAuthorizer(tasks ...TaskGetter) authorizer.Authorizer {
	return New([]WorkerGetter{workers(nil)}, tasks)
}

// workers returns a getter of the Workers of namespace "ns". The map holds their spec.denied by name.
func workers(denied map[string]bool) WorkerGetter {
	return func(_ context.Context, namespace, name string) (*batch.Worker, error) {
		is, ok := denied[name]
		if namespace != "ns" || !ok {
			return nil, apierrors.NewNotFound(batch.Resource("workers"), name)
		}
		return &batch.Worker{Spec: batch.WorkerSpec{Denied: is}}, nil
	}
}

// tasks returns a getter of tasks in namespace "ns", and of the same tasks in "other", all bound to a worker of the
// same name.
func tasks(t *testing.T) TaskGetter {
	now := metav1.Now()
	stored := map[string]*batch.Task{}
	for name, task := range map[string]struct {
		worker   string
		deletion *metav1.Time
	}{
		"bound":            {"own", nil},
		"bound-deleted":    {"own", &now},
		"foreign":          {"other", nil},
		"foreign-deleted":  {"other", &now},
		"unbound":          {"", nil},
		"unbound-deleted":  {"", &now},
		"bound-to-longer":  {"own2", nil},
		"bound-to-shorter": {"ow", nil},
	} {
		stored["ns/"+name] = &batch.Task{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, DeletionTimestamp: task.deletion},
			Spec:       batch.TaskSpec{WorkerName: task.worker},
		}
		stored["other/"+name] = &batch.Task{
			ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: name, DeletionTimestamp: task.deletion},
			Spec:       batch.TaskSpec{WorkerName: "own"},
		}
	}
	return func(_ context.Context, namespace, name string) (*batch.Task, error) {
		if name == "" {
			t.Errorf("the getter was called without a name")
		}
		if task, ok := stored[namespace+"/"+name]; ok {
			return task, nil
		}
		return nil, apierrors.NewNotFound(batch.Resource("tasks"), name)
	}
}

// TestOnlyWhatIsListedIsAllowed tries every verb on every resource, in every namespace and by every name.
func TestOnlyWhatIsListedIsAllowed(t *testing.T) {
	allowed := map[string]bool{}
	for request, names := range map[string][]string{
		"create workers":         {""},
		"get workers":            {"own"},
		"update workers":         {"own"},
		"get workers/status":     {"own"},
		"update workers/status":  {"own"},
		"create workerleases":    {""},
		"get workerleases":       {"own"},
		"update workerleases":    {"own"},
		"get tasks":              {"bound", "bound-deleted"},
		"delete tasks":           {"bound-deleted"},
		"update tasks/status":    {"bound", "bound-deleted"},
		"create tasks/eviction":  {"bound", "bound-deleted"},
		"create workers/archive": {"own"},
	} {
		for _, name := range names {
			allowed[request+" ns/"+name] = true
		}
	}

	var served []string
	for _, kind := range kinds.All {
		served = append(served, kind.Resource)
	}
	a := newAuthorizer(tasks(t))
	seen := map[string]bool{}
	for _, verb := range []string{"create", "get", "list", "watch", "update", "patch", "delete", "deletecollection", "proxy", "bind", "impersonate", "*"} {
		for _, resource := range append(served, "*") {
			for _, subresource := range []string{"", "status", "binding", "eviction", "log", "records", "archive", "scale", "finalizers", "*"} {
				for _, namespace := range []string{"ns", "other", ""} {
					for _, name := range []string{
						"", "own", "other", "own2", "ow", "absent", "*",
						"bound", "bound-deleted", "foreign", "foreign-deleted", "unbound", "unbound-deleted", "bound-to-longer", "bound-to-shorter",
					} {
						attrs := authorizer.AttributesRecord{
							User: own, Verb: verb, Namespace: namespace, APIGroup: batch.GroupName, APIVersion: "v1alpha1",
							Resource: resource, Subresource: subresource, Name: name, ResourceRequest: true,
						}
						request := strings.TrimSuffix(fmt.Sprintf("%s %s/%s", verb, resource, subresource), "/") + " " + namespace + "/" + name
						want := authorizer.DecisionNoOpinion
						if allowed[request] {
							want = authorizer.DecisionAllow
							seen[request] = true
						}
						decision, reason, err := a.Authorize(t.Context(), attrs)
						if decision != want || err != nil {
							t.Errorf("%s: got %s (%s, %v), want %s", request, decision, reason, err, want)
						}
						if (reason == "") != (want == authorizer.DecisionAllow) {
							t.Errorf("%s: %s with reason %q", request, decision, reason)
						}
						if got := a.ConditionsAwareAuthorize(t.Context(), attrs); got.IsAllow() != (want == authorizer.DecisionAllow) {
							t.Errorf("%s: got %s with conditions, want %s", request, got, want)
						}

						attrs.User = workerUser("leat:worker:ns:own")
						if decision, reason, err := a.Authorize(t.Context(), attrs); decision != authorizer.DecisionNoOpinion || reason != "" || err != nil {
							t.Errorf("%s by another user: got %s (%q, %v), want no opinion without a reason", request, decision, reason, err)
						}
						attrs.User = workerUser("someone", v1alpha1.WorkersGroup)
						if decision, _, _ := a.Authorize(t.Context(), attrs); decision != authorizer.DecisionNoOpinion {
							t.Errorf("%s by a worker without identity: got %s", request, decision)
						}
						attrs.User, attrs.APIGroup = own, ""
						if decision, _, _ := a.Authorize(t.Context(), attrs); decision != authorizer.DecisionNoOpinion {
							t.Errorf("%s of another group: got %s", request, decision)
						}
					}
				}
			}
		}
	}
	if len(seen) != len(allowed) {
		t.Errorf("tried %d of the %d requests that must be allowed", len(seen), len(allowed))
	}
}

func TestNoOpinionOnNonResourceRequests(t *testing.T) {
	attrs := authorizer.AttributesRecord{User: own, Verb: "get", Path: "/metrics", Namespace: "ns", APIGroup: batch.GroupName, Resource: "workers", Name: "own"}
	if decision, _, _ := newAuthorizer(tasks(t)).Authorize(t.Context(), attrs); decision != authorizer.DecisionNoOpinion {
		t.Errorf("got %s", decision)
	}
}

func TestListsAndWatchesMustSelectTheWorker(t *testing.T) {
	for selector, want := range map[string]authorizer.Decision{
		"spec.workerName=own":                       authorizer.DecisionAllow,
		"spec.workerName==own":                      authorizer.DecisionAllow,
		"status.phase!=Failed,spec.workerName=own":  authorizer.DecisionAllow,
		"spec.workerName=own,metadata.name=foreign": authorizer.DecisionAllow,
		"":                        authorizer.DecisionNoOpinion,
		"spec.workerName=":        authorizer.DecisionNoOpinion,
		"spec.workerName=other":   authorizer.DecisionNoOpinion,
		"spec.workerName=own2":    authorizer.DecisionNoOpinion,
		"spec.workerName!=own":    authorizer.DecisionNoOpinion,
		"spec.workerName!=other":  authorizer.DecisionNoOpinion,
		"metadata.name=own":       authorizer.DecisionNoOpinion,
		"status.workerName=own":   authorizer.DecisionNoOpinion,
		"metadata.name=bound":     authorizer.DecisionNoOpinion,
		"spec.queueName=own":      authorizer.DecisionNoOpinion,
		"spec.workerName=own\\,x": authorizer.DecisionNoOpinion,
	} {
		parsed, err := fields.ParseSelector(selector)
		if err != nil {
			t.Fatal(err)
		}
		for _, verb := range []string{"list", "watch", "deletecollection"} {
			for _, resource := range []string{"tasks", "workers", "tasksets"} {
				for _, namespace := range []string{"ns", "other", ""} {
					want := want
					if verb == "deletecollection" || resource != "tasks" || namespace != "ns" {
						want = authorizer.DecisionNoOpinion
					}
					attrs := authorizer.AttributesRecord{
						User: own, Verb: verb, Namespace: namespace, APIGroup: batch.GroupName, Resource: resource, ResourceRequest: true,
						FieldSelectorRequirements: parsed.Requirements(),
					}
					if decision, reason, err := newAuthorizer(tasks(t)).Authorize(t.Context(), attrs); decision != want || err != nil {
						t.Errorf("%s %s in %q selected by %q: got %s (%s, %v), want %s", verb, resource, namespace, selector, decision, reason, err, want)
					}
				}
			}
		}
	}
}

func TestUnparseableSelectors(t *testing.T) {
	attrs := authorizer.AttributesRecord{
		User: own, Verb: "watch", Namespace: "ns", APIGroup: batch.GroupName, Resource: "tasks", ResourceRequest: true,
		FieldSelectorParsingErr: errors.New("broken"),
	}
	a := newAuthorizer(tasks(t))
	if decision, reason, err := a.Authorize(t.Context(), attrs); decision != authorizer.DecisionNoOpinion || !strings.Contains(reason, "broken") || err != nil {
		t.Errorf("nothing parsed: got %s (%s, %v), want no opinion with the parse error as reason", decision, reason, err)
	}
	attrs.FieldSelectorRequirements = fields.OneTermEqualSelector(SelectorField, "own").Requirements()
	if decision, reason, err := a.Authorize(t.Context(), attrs); decision != authorizer.DecisionAllow || err != nil {
		t.Errorf("worker's requirement parsed: got %s (%s, %v), want allow", decision, reason, err)
	}
}

func TestTaskGettersAreCalledUntilOneReturnsTheTaskBound(t *testing.T) {
	returns := func(worker string) TaskGetter {
		return func(_ context.Context, namespace, name string) (*batch.Task, error) {
			return &batch.Task{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: batch.TaskSpec{WorkerName: worker}}, nil
		}
	}
	fails := func(err error) TaskGetter {
		return func(context.Context, string, string) (*batch.Task, error) { return nil, err }
	}
	notFound := fails(apierrors.NewNotFound(batch.Resource("tasks"), "task"))
	down := errors.New("store is down")
	uncalled := func(context.Context, string, string) (*batch.Task, error) {
		t.Error("called although the getter before it returned the task bound")
		return nil, down
	}

	for name, test := range map[string]struct {
		getters []TaskGetter
		want    authorizer.Decision
		err     error
	}{
		"first returns it bound":            {[]TaskGetter{returns("own"), uncalled}, authorizer.DecisionAllow, nil},
		"first lags":                        {[]TaskGetter{returns(""), returns("own")}, authorizer.DecisionAllow, nil},
		"first does not have it yet":        {[]TaskGetter{notFound, returns("own")}, authorizer.DecisionAllow, nil},
		"first fails":                       {[]TaskGetter{fails(down), returns("own")}, authorizer.DecisionAllow, nil},
		"both return it bound to another":   {[]TaskGetter{returns("other"), returns("other")}, authorizer.DecisionNoOpinion, nil},
		"not found":                         {[]TaskGetter{notFound, notFound}, authorizer.DecisionNoOpinion, nil},
		"last fails":                        {[]TaskGetter{returns("other"), fails(down)}, authorizer.DecisionNoOpinion, down},
		"only one, which fails":             {[]TaskGetter{fails(down)}, authorizer.DecisionNoOpinion, down},
		"first fails, second has not found": {[]TaskGetter{fails(down), notFound}, authorizer.DecisionNoOpinion, down},
	} {
		t.Run(name, func(t *testing.T) {
			attrs := authorizer.AttributesRecord{
				User: own, Verb: "update", Namespace: "ns", APIGroup: batch.GroupName, Resource: "tasks", Subresource: "status", Name: "task", ResourceRequest: true,
			}
			decision, reason, err := newAuthorizer(test.getters...).Authorize(t.Context(), attrs)
			if decision != test.want || !errors.Is(err, test.err) {
				t.Errorf("got %s (%s, %v), want %s and %v", decision, reason, err, test.want, test.err)
			}
			if test.err != nil && !strings.Contains(reason, test.err.Error()) {
				t.Errorf("reason %q does not contain %q", reason, test.err)
			}
		})
	}
}

func TestOtherUsersDoNotAllocate(t *testing.T) {
	a := newAuthorizer(func(context.Context, string, string) (*batch.Task, error) {
		t.Error("the getter was called")
		return nil, nil
	})
	attrs := authorizer.Attributes(authorizer.AttributesRecord{
		User: workerUser("system:serviceaccount:leat-system:leat-controller-manager"), Verb: "update", Namespace: "ns",
		APIGroup: batch.GroupName, Resource: "tasks", Subresource: "status", Name: "task", ResourceRequest: true,
	})
	if allocations := testing.AllocsPerRun(100, func() { _, _, _ = a.Authorize(t.Context(), attrs) }); allocations > 1 {
		t.Errorf("%.0f allocations", allocations)
	}
}

// TestDeniedWorker expects a denial of every request, so that no other authorizer can allow it.
func TestDeniedWorker(t *testing.T) {
	a := New([]WorkerGetter{workers(map[string]bool{"own": true, "other": false})}, []TaskGetter{tasks(t)})
	requests := map[string]authorizer.AttributesRecord{
		"its Worker":  {Verb: "get", Resource: "workers", Name: "own"},
		"its status":  {Verb: "update", Resource: "workers", Subresource: "status", Name: "own"},
		"its lease":   {Verb: "update", Resource: "workerleases", Name: "own"},
		"registering": {Verb: "create", Resource: "workers"},
		"its task":    {Verb: "update", Resource: "tasks", Subresource: "status", Name: "bound"},
		"its tasks":   {Verb: "watch", Resource: "tasks", FieldSelectorRequirements: fields.ParseSelectorOrDie("spec.workerName=own").Requirements()},
		"task sets":   {Verb: "get", Resource: "tasksets", Name: "x"},
	}
	for name, attrs := range requests {
		attrs.User, attrs.APIGroup, attrs.APIVersion, attrs.Namespace, attrs.ResourceRequest = own, batch.GroupName, "v1alpha1", "ns", true
		decision, reason, err := a.Authorize(t.Context(), attrs)
		if decision != authorizer.DecisionDeny || !strings.Contains(reason, "worker ns/own is denied") || err != nil {
			t.Errorf("%s: got %v, %q, %v", name, decision, reason, err)
		}
	}
	if decision, _, _ := a.Authorize(t.Context(), authorizer.AttributesRecord{User: own, Verb: "get", Path: "/version"}); decision != authorizer.DecisionDeny {
		t.Errorf("non-resource request: got %v", decision)
	}
	other := authorizer.AttributesRecord{
		User: workerUser("leat:worker:ns:other", v1alpha1.WorkersGroup), APIGroup: batch.GroupName, Namespace: "ns", ResourceRequest: true, Verb: "get", Resource: "workers", Name: "other",
	}
	if decision, reason, err := a.Authorize(t.Context(), other); decision != authorizer.DecisionAllow || err != nil {
		t.Errorf("another worker: got %v, %q, %v", decision, reason, err)
	}
}

func TestWorkerGettersAreCalledUntilOneReturnsTheWorker(t *testing.T) {
	down := errors.New("store is down")
	fails := func(context.Context, string, string) (*batch.Worker, error) { return nil, down }
	uncalled := func(context.Context, string, string) (*batch.Worker, error) {
		t.Error("the store was read although the cache has the Worker")
		return nil, down
	}
	denied, allowed := workers(map[string]bool{"own": true}), workers(map[string]bool{"own": false})
	for name, test := range map[string]struct {
		getters  []WorkerGetter
		decision authorizer.Decision
		err      error
	}{
		"in the cache":                    {[]WorkerGetter{allowed, uncalled}, authorizer.DecisionAllow, nil},
		"denied in the cache":             {[]WorkerGetter{denied, uncalled}, authorizer.DecisionDeny, nil},
		"cache lags":                      {[]WorkerGetter{workers(nil), denied}, authorizer.DecisionDeny, nil},
		"not registered":                  {[]WorkerGetter{workers(nil), workers(nil)}, authorizer.DecisionAllow, nil},
		"cache not ready":                 {[]WorkerGetter{fails, allowed}, authorizer.DecisionAllow, nil},
		"cache not ready, denied in etcd": {[]WorkerGetter{fails, denied}, authorizer.DecisionDeny, nil},
		"cache and store fail":            {[]WorkerGetter{fails, fails}, authorizer.DecisionNoOpinion, down},
		"store fails":                     {[]WorkerGetter{workers(nil), fails}, authorizer.DecisionNoOpinion, down},
	} {
		t.Run(name, func(t *testing.T) {
			decision, reason, err := New(test.getters, []TaskGetter{tasks(t)}).Authorize(t.Context(), authorizer.AttributesRecord{
				User: own, APIGroup: batch.GroupName, Namespace: "ns", ResourceRequest: true, Verb: "get", Resource: "workers", Name: "own",
			})
			if decision != test.decision || !errors.Is(err, test.err) {
				t.Errorf("got %v, %q, %v", decision, reason, err)
			}
		})
	}
}
