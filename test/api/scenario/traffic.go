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

package scenario

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"k8s.io/client-go/rest"
)

// Traffic records the requests of a client and their responses. It is safe for concurrent use.
type Traffic struct {
	mu        sync.Mutex
	exchanges []Exchange
}

// Exchange is a request and its response.
type Exchange struct {
	Method, Path string
	Query        url.Values
	// Sent and Received are the media types of the bodies, without parameters but stream=watch. Sent is empty if the
	// request has no body.
	Sent, Received string
	Status         int
}

// Wrap returns a client configuration whose traffic is recorded.
func (w *Traffic) Wrap(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return roundTripper{w, next} })
	return config
}

// Exchanges returns the successful requests of the API group.
func (w *Traffic) Exchanges() []Exchange {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.exchanges)
}

type roundTripper struct {
	traffic *Traffic
	next    http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (r roundTripper) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := r.next.RoundTrip(request)
	if err != nil || response.StatusCode >= 300 || !strings.HasPrefix(request.URL.Path, "/apis/batch.leat.dev/v1alpha1/") {
		return response, err
	}
	exchange := Exchange{
		Method: request.Method, Path: request.URL.Path, Query: request.URL.Query(),
		Received: mediaType(response.Header), Status: response.StatusCode,
	}
	if request.ContentLength != 0 {
		exchange.Sent = mediaType(request.Header)
	}
	r.traffic.mu.Lock()
	defer r.traffic.mu.Unlock()
	r.traffic.exchanges = append(r.traffic.exchanges, exchange)
	return response, nil
}

// mediaType returns the media type without parameters of the form of the object, such as as=PartialObjectMetadata.
func mediaType(header http.Header) string {
	parts := strings.Split(header.Get("Content-Type"), ";")
	kept := parts[:1]
	if slices.Contains(parts[1:], "stream=watch") {
		kept = append(kept, "stream=watch")
	}
	return strings.Join(kept, ";")
}
