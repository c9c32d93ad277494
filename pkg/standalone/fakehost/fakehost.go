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

// Package fakehost fakes an empty Kubernetes host for the parts of a server that
// read from one: admission plugins, priority and fairness, and informers. They run
// unchanged in a standalone server.
package fakehost

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// resourceVersion is the resourceVersion of all objects and lists: nothing changes.
const resourceVersion = "1"

// NewConfig returns the configuration of a client that talks to an empty host
// inside this process. It opens no connection and is not throttled. The caller
// may set a user agent or content type, but no TLS or credentials: client-go
// refuses those beside a transport.
//
// The OpenAPI documents of a host include the kinds of the servers behind it, and
// admission policies read the schema of an object from them. openAPI returns the
// handler of the documents. It is called for each request; nil means that there are
// none.
func NewConfig(openAPI func() http.Handler) *rest.Config {
	return &rest.Config{
		Host:      "https://fakehost.invalid",
		Transport: Transport{openAPI},
		QPS:       -1,
	}
}

// Transport answers requests as a Kubernetes host would that has no objects, no
// custom APIs, and every namespace one may name:
//
//   - list: an empty list of the right kind;
//   - watch: no event but, when initial events are asked for, the bookmark that
//     ends them; it stays open until the request's context ends;
//   - get of a namespace: an active one, if the name is an RFC 1123 label;
//   - discovery: no groups;
//   - OpenAPI v3: the response of its handler;
//   - all else, writes included: 404 with a Status.
//
// Responses are JSON whatever the request accepts: clients of client-go decode by the
// content type of the response. Kinds are those of client-go's scheme. For an unknown
// resource the kind is the name of the resource, which dynamic clients accept. A
// Transport is stateless and safe for concurrent use.
type Transport struct {
	openAPI func() http.Handler
}

var requestInfos = request.RequestInfoFactory{
	APIPrefixes:          sets.NewString("api", "apis"),
	GrouplessAPIPrefixes: sets.NewString("api"),
}

// RoundTrip implements http.RoundTripper. It fails only if the request's context
// has ended.
func (t Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		_ = req.Body.Close() // nothing here depends on it
	}
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	info, err := requestInfos.NewRequestInfo(req)
	if err != nil {
		return answer(req, apierrors.NewBadRequest(err.Error()).Status()), nil
	}
	gvr := schema.GroupVersionResource{Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource}
	switch {
	case req.Method == http.MethodGet && (req.URL.Path == "/api" || req.URL.Path == "/apis"):
		return noGroups(req), nil
	case req.Method == http.MethodGet && (req.URL.Path == "/openapi/v3" || strings.HasPrefix(req.URL.Path, "/openapi/v3/")):
		return t.serveOpenAPI(req), nil
	case !info.IsResourceRequest:
		return answer(req, notFound(info)), nil
	case info.Verb == "list":
		return answer(req, emptyList(gvr)), nil
	case info.Verb == "watch":
		return openWatch(req, gvr), nil
	case info.Verb == "get" && info.Subresource == "" && gvr == corev1.SchemeGroupVersion.WithResource("namespaces") &&
		len(validation.IsDNS1123Label(info.Name)) == 0:
		return answer(req, namespace(info.Name)), nil
	default:
		return answer(req, notFound(info)), nil
	}
}

func (t Transport) serveOpenAPI(req *http.Request) *http.Response {
	handler := t.openAPI()
	if handler == nil {
		return answer(req, struct {
			Paths struct{} `json:"paths"`
		}{})
	}
	recorder := &recorder{header: http.Header{}, code: http.StatusOK}
	handler.ServeHTTP(recorder, req)
	resp := response(req, recorder.code, io.NopCloser(&recorder.body))
	resp.Header = recorder.header
	return resp
}

// recorder is an http.ResponseWriter that records the response.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
func (r *recorder) WriteHeader(code int)        { r.code = code }

// noGroups responds in the aggregated format to all clients. client-go's memory cache
// never becomes fresh with an unaggregated list without groups, and its REST mapper
// then retries forever. Clients that request the unaggregated format find none of its
// fields in the response, and so see no groups either.
func noGroups(req *http.Request) *http.Response {
	resp := answer(req, apidiscoveryv2.APIGroupDiscoveryList{
		TypeMeta: metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: apidiscoveryv2.SchemeGroupVersion.String()},
		Items:    []apidiscoveryv2.APIGroupDiscovery{},
	})
	resp.Header.Set("Content-Type", discovery.AcceptV2)
	return resp
}

// list has the fields that all list kinds share. Items is never nil: dynamic clients
// would decode the list as a single object.
type list struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []struct{} `json:"items"`
}

func emptyList(gvr schema.GroupVersionResource) list {
	return list{
		TypeMeta: typeMeta(gvr, kindOf(gvr)+"List"),
		ListMeta: metav1.ListMeta{ResourceVersion: resourceVersion},
		Items:    []struct{}{},
	}
}

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{
		TypeMeta:   typeMeta(corev1.SchemeGroupVersion.WithResource("namespaces"), "Namespace"),
		ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: resourceVersion, Labels: map[string]string{corev1.LabelMetadataName: name}},
		Spec:       corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
		Status:     corev1.NamespaceStatus{Phase: corev1.NamespaceActive},
	}
}

func notFound(info *request.RequestInfo) metav1.Status {
	if !info.IsResourceRequest {
		return metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
			Status:   metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound,
			Message: fmt.Sprintf("a standalone server has no Kubernetes host: nothing answers %s %s", info.Verb, info.Path),
		}
	}
	status := apierrors.NewNotFound(schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}, info.Name).Status()
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	return status
}

// openWatch responds with a stream that ends only with the request's context.
func openWatch(req *http.Request, gvr schema.GroupVersionResource) *http.Response {
	var initial []byte
	if req.URL.Query().Get("sendInitialEvents") == "true" {
		initial = marshal(struct {
			Type   string                       `json:"type"`
			Object metav1.PartialObjectMetadata `json:"object"`
		}{"BOOKMARK", metav1.PartialObjectMetadata{
			TypeMeta: typeMeta(gvr, kindOf(gvr)),
			ObjectMeta: metav1.ObjectMeta{
				ResourceVersion: resourceVersion,
				Annotations:     map[string]string{metav1.InitialEventsAnnotationKey: "true"},
			},
		}})
	}
	ctx, cancel := context.WithCancel(req.Context())
	return response(req, http.StatusOK, &watchBody{initial: bytes.NewReader(initial), ctx: ctx, cancel: cancel})
}

// watchBody returns initial, and then blocks until the request's context ends or
// the client closes it. It then ends like a watch that the server closes.
type watchBody struct {
	initial *bytes.Reader
	ctx     context.Context
	cancel  context.CancelFunc
}

func (b *watchBody) Read(p []byte) (int, error) {
	if n, err := b.initial.Read(p); err == nil {
		return n, nil
	}
	<-b.ctx.Done()
	return 0, io.EOF
}

func (b *watchBody) Close() error {
	b.cancel()
	return nil
}

func answer(req *http.Request, body any) *http.Response {
	code := http.StatusOK
	if status, ok := body.(metav1.Status); ok {
		code = int(status.Code)
	}
	data := marshal(body)
	resp := response(req, code, io.NopCloser(bytes.NewReader(data)))
	resp.ContentLength = int64(len(data))
	return resp
}

func response(req *http.Request, code int, body io.ReadCloser) *http.Response {
	return &http.Response{
		Status:     fmt.Sprintf("%d %s", code, http.StatusText(code)),
		StatusCode: code,
		Proto:      "HTTP/2.0", ProtoMajor: 2,
		Header:        http.Header{"Content-Type": {runtime.ContentTypeJSON}},
		Body:          body,
		ContentLength: -1,
		Request:       req,
	}
}

func marshal(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // all types are our own
	}
	return data
}

func typeMeta(gvr schema.GroupVersionResource, kind string) metav1.TypeMeta {
	return metav1.TypeMeta{Kind: kind, APIVersion: gvr.GroupVersion().String()}
}

// kindOf returns the kind of a resource, or the resource's name if client-go
// does not know it.
func kindOf(gvr schema.GroupVersionResource) string {
	if kind, known := kinds()[gvr]; known {
		return kind
	}
	return gvr.Resource
}

var kinds = sync.OnceValue(func() map[schema.GroupVersionResource]string {
	kinds := map[schema.GroupVersionResource]string{}
	for gvk := range scheme.Scheme.AllKnownTypes() {
		if scheme.Scheme.Recognizes(gvk.GroupVersion().WithKind(gvk.Kind + "List")) {
			plural, _ := meta.UnsafeGuessKindToResource(gvk)
			kinds[plural] = gvk.Kind
		}
	}
	return kinds
})
