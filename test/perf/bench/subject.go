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

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	leatscheme "github.com/leat-dev/leat/pkg/generated/clientset/versioned/scheme"
)

// operation is a kind of request for one object.
type operation string

const (
	opCreate       operation = "create"
	opGet          operation = "get"
	opBind         operation = "bind"
	opPatchStatus  operation = "patch status"
	opUpdateStatus operation = "update status"
	opDelete       operation = "delete"
)

// operations are all operations, in an order that works for one object.
var operations = []operation{opCreate, opGet, opBind, opPatchStatus, opUpdateStatus, opDelete}

// subject is one of the systems that are compared by the same operations.
type subject interface {
	// label and encoding identify the subject.
	label() string
	encoding() string
	// servers returns the processes whose CPU time counts, and etcd the store whose writes count.
	servers() []string
	etcd() string
	// prepare returns the body of a request. Its time is not measured. ok is false if the subject does not have the
	// operation. last is the last response for the object, nil before the first.
	prepare(op operation, name string, last []byte) (body []byte, ok bool, err error)
	// do sends the request. The response is the argument last of the next prepare.
	do(ctx context.Context, client int, op operation, name string, body []byte) (response []byte, err error)
}

const (
	jsonEncoding  = "JSON"
	protoEncoding = "protobuf"
)

// startedAt is the time in all objects, so that all have the same size.
var startedAt = metav1.Unix(1893456000, 0)

// digest returns data that differs between objects, as in a real installation. Equal objects would compress too well.
func digest(name string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(name))) }

// newTask returns the task of all measurements. It has about 1.4 kB as stored JSON.
func newTask(name, worker string) *batch.Task {
	grace, backoff, ttl := int64(30), int32(3), int32(3600)
	return &batch.Task{
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Labels:      map[string]string{"app": "render", "team": "pictures"},
			Annotations: map[string]string{"example.com/input-sha256": digest(name)},
		},
		Spec: batch.TaskSpec{
			QueueName: "default", WorkerName: worker,
			Command:      []string{"/opt/render/bin/render", "--quality=high"},
			Args:         []string{"--scene=/data/scenes/forest.scene", "--frame=001234", "--out=/data/frames/forest"},
			Env:          []batch.EnvVar{{Name: "THREADS", Value: "4"}, {Name: "CACHE", Value: "/var/cache/render"}},
			Resources:    batch.TaskResources{Requests: batch.ResourceList{batch.ResourceCPU: resource.MustParse("500m"), batch.ResourceMemory: resource.MustParse("256Mi")}},
			BackoffLimit: &backoff, TerminationGracePeriodSeconds: &grace, TTLSecondsAfterFinished: &ttl,
		},
	}
}

// apiSubject is a resource of an API server.
type apiSubject struct {
	name, store string
	processes   []string
	proto       bool
	kind        schema.GroupVersionKind
	// collection is the URL of the resource in the namespace.
	collection string
	clients    []*http.Client
	newObject  func(name string) runtime.Object
	// bindTo returns the body of a binding. It is nil if the resource has no binding.
	bindTo func(name string) runtime.Object
	// started is the status patch of a started task. finished sets the status of a finished task.
	started  string
	finished func(runtime.Object)
}

func (a *apiSubject) label() string     { return a.name }
func (a *apiSubject) servers() []string { return a.processes }
func (a *apiSubject) etcd() string      { return a.store }

func (a *apiSubject) encoding() string {
	if a.proto {
		return protoEncoding
	}
	return jsonEncoding
}

func (a *apiSubject) mediaType() string {
	if a.proto {
		return runtime.ContentTypeProtobuf
	}
	return runtime.ContentTypeJSON
}

// codecs returns the codecs for the kind.
func (a *apiSubject) codecs() runtime.NegotiatedSerializer {
	if a.kind.Group == "" {
		return scheme.Codecs
	}
	return leatscheme.Codecs
}

func (a *apiSubject) encode(obj runtime.Object) ([]byte, error) {
	if !a.proto {
		return json.Marshal(obj)
	}
	info, ok := runtime.SerializerInfoForMediaType(a.codecs().SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	if !ok {
		return nil, errors.New("the scheme has no protobuf serializer")
	}
	return runtime.Encode(info.Serializer, obj)
}

func (a *apiSubject) decode(data []byte, into runtime.Object) error {
	if !a.proto {
		return json.Unmarshal(data, into)
	}
	info, _ := runtime.SerializerInfoForMediaType(a.codecs().SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	_, _, err := info.Serializer.Decode(data, nil, into)
	return err
}

func (a *apiSubject) prepare(op operation, name string, last []byte) ([]byte, bool, error) {
	var body []byte
	var err error
	switch op {
	case opCreate:
		obj := a.newObject(name)
		obj.GetObjectKind().SetGroupVersionKind(a.kind)
		body, err = a.encode(obj)
	case opBind:
		if a.bindTo == nil {
			return nil, false, nil
		}
		body, err = a.encode(a.bindTo(name))
	case opPatchStatus:
		body = []byte(a.started)
	case opUpdateStatus:
		obj := a.newObject(name)
		if err = a.decode(last, obj); err == nil {
			a.finished(obj)
			obj.GetObjectKind().SetGroupVersionKind(a.kind)
			body, err = a.encode(obj)
		}
	}
	return body, true, err
}

func (a *apiSubject) do(ctx context.Context, client int, op operation, name string, body []byte) ([]byte, error) {
	url, method, contentType := a.collection+"/"+name, http.MethodGet, a.mediaType()
	switch op {
	case opCreate:
		url, method = a.collection, http.MethodPost
	case opBind:
		url, method = url+"/binding", http.MethodPost
	case opPatchStatus:
		url, method, contentType = url+"/status", http.MethodPatch, "application/merge-patch+json"
	case opUpdateStatus:
		url, method = url+"/status", http.MethodPut
	case opDelete:
		url, method = url+"?gracePeriodSeconds=0", http.MethodDelete
	}
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", a.mediaType())
	request.Header.Set("User-Agent", userAgent)
	if len(body) > 0 {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := a.clients[client].Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %.300q", method, url, response.Status, answer)
	}
	return answer, err
}

// userAgent becomes the manager in managed fields.
const userAgent = "leat-bench/1"

// newClients returns n clients with one connection each, like n programs.
func newClients(config *rest.Config, n int) ([]*http.Client, error) {
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	clients := make([]*http.Client, n)
	for i := range clients {
		clients[i] = &http.Client{Transport: &http.Transport{
			TLSClientConfig: tlsConfig.Clone(), ForceAttemptHTTP2: true,
			// Count the bytes on the wire. Requests for a compressed response set the header themselves.
			DisableCompression: true,
		}}
	}
	return clients, nil
}

const startedPatch = `{"status":{"phase":"Running","attempts":1,"startTime":"2030-01-01T00:00:00Z","state":{"running":{"startedAt":"2030-01-01T00:00:00Z"}}}}`

func finishTask(obj runtime.Object) {
	status := &obj.(*batch.Task).Status
	status.Phase, status.CompletionTime = batch.TaskSucceeded, &startedAt
	status.State = batch.TaskState{Terminated: &batch.TaskStateTerminated{Reason: batch.TaskReasonCompleted, StartedAt: startedAt, FinishedAt: startedAt}}
}

const startedPodPatch = `{"status":{"phase":"Running","startTime":"2030-01-01T00:00:00Z","containerStatuses":[{"name":"main","image":"render","imageID":"","ready":true,"restartCount":0,"state":{"running":{"startedAt":"2030-01-01T00:00:00Z"}}}]}}`

func finishPod(obj runtime.Object) {
	status := &obj.(*corev1.Pod).Status
	status.Phase = corev1.PodSucceeded
	for i := range status.ContainerStatuses {
		status.ContainerStatuses[i].Ready = false
		status.ContainerStatuses[i].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: startedAt, FinishedAt: startedAt}}
	}
}

// newPod returns a Pod with the same content as newTask.
func newPod(name string) *corev1.Pod {
	task := newTask(name, "")
	pod := &corev1.Pod{ObjectMeta: task.ObjectMeta, Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: new(bool),
		Containers: []corev1.Container{{
			Name: "main", Image: "render", Command: task.Spec.Command, Args: task.Spec.Args,
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("500m"), "memory": resource.MustParse("256Mi")}},
		}},
	}}
	for _, variable := range task.Spec.Env {
		pod.Spec.Containers[0].Env = append(pod.Spec.Containers[0].Env, corev1.EnvVar{Name: variable.Name, Value: variable.Value})
	}
	return pod
}

// etcdSubject sends the transactions of an API server to etcd, with a value of the size that Leat stores.
type etcdSubject struct {
	client *clientv3.Client
	value  string

	mu        sync.Mutex
	revisions map[string]int64
}

func (*etcdSubject) label() string     { return etcdLabel }
func (*etcdSubject) encoding() string  { return "" }
func (*etcdSubject) servers() []string { return []string{leatEtcd} }
func (*etcdSubject) etcd() string      { return leatEtcd }

func (e *etcdSubject) prepare(op operation, name string, _ []byte) ([]byte, bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	// The transaction compares the revision.
	return []byte(strconv.FormatInt(e.revisions[name], 10)), op != opBind, nil
}

func (e *etcdSubject) do(ctx context.Context, _ int, op operation, name string, body []byte) ([]byte, error) {
	key := "/bench/" + name
	if op == opGet {
		response, err := e.client.Get(ctx, key)
		if err == nil && len(response.Kvs) != 1 {
			err = fmt.Errorf("%s does not exist", key)
		}
		return nil, err
	}
	revision, err := strconv.ParseInt(string(body), 10, 64)
	if err != nil {
		return nil, err
	}
	txn := e.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision))
	switch op {
	case opCreate:
		txn = txn.Then(clientv3.OpPut(key, e.value))
	case opDelete:
		txn = txn.Then(clientv3.OpDelete(key)).Else(clientv3.OpGet(key))
	default:
		txn = txn.Then(clientv3.OpPut(key, e.value)).Else(clientv3.OpGet(key))
	}
	response, err := txn.Commit()
	if err != nil {
		return nil, err
	}
	if !response.Succeeded {
		return nil, fmt.Errorf("%s %s: the key has another revision than %d", op, key, revision)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.revisions[name] = response.Header.Revision
	return nil, nil
}
