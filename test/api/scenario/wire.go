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

// Wire notes what a client and the server send to each other. It is safe for concurrent use.
type Wire struct {
	mu        sync.Mutex
	exchanges []Exchange
}

// Exchange is a request and its answer.
type Exchange struct {
	Method, Path string
	Query        url.Values
	// Sent and Received are the media types of what was sent and received, without parameters but stream=watch; empty
	// where there was nothing.
	Sent, Received string
	Status         int
}

// On gives the configuration of a client whose exchanges are noted.
func (w *Wire) On(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return roundTripper{w, next} })
	return config
}

// Exchanges gives those of the group batch.leat.dev that were answered with success.
func (w *Wire) Exchanges() []Exchange {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.exchanges)
}

type roundTripper struct {
	wire *Wire
	next http.RoundTripper
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
	r.wire.mu.Lock()
	defer r.wire.mu.Unlock()
	r.wire.exchanges = append(r.wire.exchanges, exchange)
	return response, nil
}

// mediaType gives the media type without the parameters that say which form of the object is meant.
func mediaType(header http.Header) string {
	parts := strings.Split(header.Get("Content-Type"), ";")
	kept := parts[:1]
	if slices.Contains(parts[1:], "stream=watch") {
		kept = append(kept, "stream=watch")
	}
	return strings.Join(kept, ";")
}
