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

package chaos

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/scheme"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
)

const (
	// callTimeout bounds a call.
	callTimeout = 6 * time.Second
	// objects is the number of objects in use at a time. A new generation replaces them, so that no history becomes too
	// long for the search.
	objects    = 5
	generation = 30 * time.Second
)

// recorder records all calls.
type recorder struct {
	mu    sync.Mutex
	calls []call
}

func (r *recorder) add(c call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, c)
}

func (r *recorder) all() []call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// client makes one call after the other on objects that it shares with other clients, and records them.
type client struct {
	*cluster
	id        int
	path      string // to the server, for messages
	rest      rest.Interface
	reconnect func()
	random    *rand.Rand
	recorder  *recorder
	count     int
	// read has the last state of each object that the client has read.
	read map[string]*batch.Task
}

func newClient(s *cluster, id int, path string, config *rest.Config, seed uint64, r *recorder) *client {
	config, reconnect := reconnecting(config)
	if id%2 == 1 {
		config.ContentType = runtime.ContentTypeProtobuf
	}
	c := &client{cluster: s, id: id, path: path, reconnect: reconnect, recorder: r, read: map[string]*batch.Task{}, random: rand.New(rand.NewPCG(seed, uint64(1000+id)))}
	c.rest = kit.Must(versioned.NewForConfig(config))(s).BatchV1alpha1().RESTClient()
	return c
}

// run makes calls until ctx is done.
func (c *client) run(ctx context.Context) {
	for await.Pause(ctx, time.Duration(c.random.IntN(60))*time.Millisecond) {
		name := fmt.Sprintf("object-%d-%d", int(c.since()/generation), c.random.IntN(objects))
		read := c.read[name]
		switch dice := c.random.IntN(100); {
		case dice < 20:
			c.get(name, false)
		case dice < 27:
			c.get(name, true)
		case dice < 32:
			c.list("", c.random.IntN(2) == 0)
		case dice < 35:
			c.list("0", false)
		case dice < 45:
			c.patch(name)
		case read == nil:
			c.create(name)
		case dice < 50:
			c.remove(name, read)
		default:
			c.update(name, read)
		}
	}
	c.reconnect()
}

func (c *client) request(verb, name string) *rest.Request {
	r := c.rest.Verb(verb).Namespace(c.registers).Resource("tasks").MaxRetries(0)
	if name != "" {
		r = r.Name(name)
	}
	return r
}

// do makes a call and records it.
func (c *client) do(made call, request *rest.Request, into *batch.Task) outcome {
	ctx, cancel := context.WithTimeout(c.Context(), callTimeout)
	defer cancel()
	made.client, made.through, made.start = c.id, c.path, c.since()
	result := request.Do(ctx)
	err := result.Error()
	if err == nil && into != nil {
		err = result.Into(into)
	}
	made.end = c.since()
	made.outcome = c.judge(made, err)
	if err != nil {
		made.answer = err.Error()
	}
	if made.outcome == unknown {
		c.noted("unknown outcome: " + cause(ctx, err))
	}
	if made.outcome == ok && into != nil {
		value, revision := valueOf(into)
		if made.kind != gets && made.kind != getsCached && value != made.value {
			c.violated("got value %q: %s", value, made)
		}
		made.value, made.revision = value, revision
		if period := into.DeletionGracePeriodSeconds; made.expected != 0 || made.kind == patches {
			if into.DeletionTimestamp != nil && period != nil && *period == 0 {
				made.kind, made.expected, made.finishes, made.value = deletes, revision, true, ""
			}
		}
	}
	c.keep(made, into)
	c.recorder.add(made)
	return made.outcome
}

// keep updates the last known state of the object.
func (c *client) keep(made call, task *batch.Task) {
	switch {
	case made.outcome == ok && made.kind == deletes, made.outcome == notFound:
		delete(c.read, made.name)
	case made.outcome == ok && task != nil:
		c.read[made.name] = task
	case made.outcome == conflict, made.outcome == exists:
		if c.random.IntN(4) > 0 { // otherwise the next update conflicts again
			c.get(made.name, false)
		}
	}
}

// judge returns the outcome of a call by its error.
func (c *client) judge(made call, err error) outcome {
	switch {
	case err == nil:
		return ok
	case apierrors.IsNotFound(err):
		status := apierrors.APIStatus(nil)
		if s, is := err.(apierrors.APIStatus); is {
			status = s
		}
		if status == nil || status.Status().Details == nil || status.Status().Details.Name != made.name {
			c.violated("404 that does not name the object, which would mislead a garbage collector: %s: %v", made, err)
			return unknown
		}
		return notFound
	case apierrors.IsAlreadyExists(err):
		return exists
	case apierrors.IsConflict(err):
		return conflict
	case apierrors.IsTooManyRequests(err), apierrors.IsForbidden(err), apierrors.IsUnauthorized(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return refused
	}
	if !apierrors.IsInternalError(err) && apierrors.ReasonForError(err) == metav1.StatusReasonUnknown {
		c.reconnect() // not an answer of a server
		await.Pause(c.Context(), time.Duration(c.random.IntN(500))*time.Millisecond)
	}
	return unknown
}

// cause returns a short reason for an unknown outcome.
func cause(ctx context.Context, err error) string {
	switch reason := apierrors.ReasonForError(err); {
	case ctx.Err() != nil:
		return fmt.Sprintf("no answer within %s", callTimeout)
	case reason != metav1.StatusReasonUnknown:
		return string(reason)
	}
	return "connection failed"
}

// value returns a new value that no client has written.
func (c *client) value() string {
	c.count++
	return fmt.Sprintf("%d-%d", c.id, c.count)
}

func (c *client) color() string { return []string{"red", "green"}[c.random.IntN(2)] }

func (c *client) get(name string, cached bool) {
	request, kind := c.request(http.MethodGet, name), gets
	if cached {
		request, kind = request.Param("resourceVersion", "0"), getsCached
	}
	c.do(call{kind: kind, name: name}, request, &batch.Task{})
}

func (c *client) create(name string) {
	task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{valueLabel: c.value(), "color": c.color()}}}
	task.Spec.Command = []string{"true"}
	// The scheduler must not write these tasks.
	task.Spec.SchedulingGates = []batch.TaskSchedulingGate{{Name: "example.com/held"}}
	c.do(call{kind: creates, name: name, value: task.Labels[valueLabel]}, c.request(http.MethodPost, "").Body(task), &batch.Task{})
}

func (c *client) update(name string, read *batch.Task) {
	_, revision := valueOf(read)
	task := read.DeepCopy()
	task.Labels = maps.Clone(task.Labels)
	task.Labels[valueLabel], task.Labels["color"] = c.value(), c.color()
	c.do(call{kind: updates, name: name, value: task.Labels[valueLabel], expected: revision}, c.request(http.MethodPut, name).Body(task), &batch.Task{})
}

func (c *client) patch(name string) {
	value := c.value()
	patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%q,"color":%q}}}`, valueLabel, value, c.color())
	request := c.rest.Patch(types.MergePatchType).Namespace(c.registers).Resource("tasks").Name(name).MaxRetries(0).Body(patch)
	c.do(call{kind: patches, name: name, value: value}, request, &batch.Task{})
}

func (c *client) remove(name string, read *batch.Task) {
	_, revision := valueOf(read)
	options := &metav1.DeleteOptions{GracePeriodSeconds: new(int64(0)), Preconditions: &metav1.Preconditions{ResourceVersion: &read.ResourceVersion}}
	c.do(call{kind: deletes, name: name, expected: revision}, c.request(http.MethodDelete, name).Body(options), nil)
}

// list lists all objects at once or in pages.
func (c *client) list(revision string, paged bool) {
	made := call{kind: lists, client: c.id, through: c.path, start: c.since(), outcome: ok, items: map[string]item{}}
	options := metav1.ListOptions{ResourceVersion: revision}
	if revision != "" {
		made.kind = listsCache
	}
	if paged {
		options.Limit = 3
	}
	for {
		ctx, cancel := context.WithTimeout(c.Context(), callTimeout)
		page := &batch.TaskList{}
		err := c.request(http.MethodGet, "").VersionedParams(&options, scheme.ParameterCodec).Do(ctx).Into(page)
		cancel()
		if made.outcome = c.judge(made, err); err != nil {
			if made.outcome == notFound {
				made.outcome = unknown
			}
			made.answer = err.Error()
			break
		}
		revision, _ := strconv.ParseInt(page.ResourceVersion, 10, 64)
		if made.revision != 0 && revision != made.revision {
			c.violated("page at revision %d after a page at revision %d", revision, made.revision)
		}
		made.revision = revision
		for i := range page.Items {
			value, revision := valueOf(&page.Items[i])
			made.items[page.Items[i].Name] = item{value, revision}
		}
		if options.Continue = page.Continue; options.Continue == "" {
			break
		}
		options.ResourceVersion = ""
	}
	made.end = c.since()
	c.recorder.add(made)
}
