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

package kit

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

// Response is the response of a server to one HTTP request.
type Response struct {
	Code int
	Body string
}

// String returns the status code and the body.
func (r Response) String() string { return fmt.Sprintf("%d %s", r.Code, r.Body) }

// Do sends one HTTP/1.1 request with the credentials of config, on a connection of its own, and returns the response,
// whatever its status. The headers are pairs of a name and a value. A body is sent as JSON. Do fails the test at once if
// there is no response.
func Do(t testing.TB, config *rest.Config, method, path, body string, headers ...string) Response {
	t.Helper()
	return Must(TryDo(t.Context(), config, method, path, body, headers...))(t)
}

// TryDo is Do for a server that may not respond at all.
func TryDo(ctx context.Context, config *rest.Config, method, path, body string, headers ...string) (Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, config.Host+path, strings.NewReader(body))
	if err != nil {
		return Response{}, err
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for pair := range slices.Chunk(headers, 2) {
		// Header.Add would change the case of the name. A test may be about a name in another case.
		request.Header[pair[0]] = append(request.Header[pair[0]], pair[1])
	}
	tls, err := rest.TLSConfigFor(config)
	if err != nil {
		return Response{}, err
	}
	transport, err := rest.HTTPWrappersForConfig(config, &http.Transport{TLSClientConfig: tls, DisableKeepAlives: true})
	if err != nil {
		return Response{}, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return Response{}, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return Response{response.StatusCode, string(data)}, err
}
