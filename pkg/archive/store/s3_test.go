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

package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leat-dev/leat/test/kit/faultproxy"
	"github.com/leat-dev/leat/test/kit/host"
)

// newS3 returns the store in the bucket of a server, below the prefix of the test.
func newS3(t *testing.T, bucket string, options S3Options) *S3 {
	t.Helper()
	store, err := NewS3(bucket, strings.Trim(strings.NewReplacer("/", "-", ",", "").Replace(t.Name()), "-"), options)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// wantUnavailable checks that an error is ErrUnavailable, has the reason, and no secret.
func wantUnavailable(t *testing.T, call string, err error, reason string, secrets ...string) {
	t.Helper()
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), reason) {
		t.Errorf("%s: %v, want ErrUnavailable with %q", call, err, reason)
		return
	}
	for _, secret := range secrets {
		if secret != "" && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error has the secret %s: %v", call, secret, err)
		}
	}
}

// calls are all methods of a Store.
func calls(ctx context.Context, store Store, key string) map[string]error {
	_, listed := store.List(ctx, "")
	_, read := store.ReadAt(ctx, key, 0, 1)
	return map[string]error{"Put": store.Put(ctx, key, []byte("x")), "List": listed, "ReadAt": read}
}

func TestS3Faults(t *testing.T) {
	server := host.S3ForTest(t)
	object := bytes.Repeat([]byte("0123456789abcdef"), 8<<20/16)

	t.Run("a server that stores conditionally is found out by the first put", func(t *testing.T) {
		store := newS3(t, server.Bucket, options(server))
		mustPut(t, store, "a", nil)
		if got := store.conditions.Load(); got != supported {
			t.Errorf("after a put the state is %d, want supported", got)
		}
	})

	t.Run("wrong credentials", func(t *testing.T) {
		for name, content := range map[string]string{
			"secret": "[default]\naws_access_key_id=" + server.AccessKeyID + "\naws_secret_access_key=not-the-secret\n",
			"key":    "[default]\naws_access_key_id=NOBODY\naws_secret_access_key=not-the-secret\n",
		} {
			config := options(server)
			config.CredentialsFile = writeFile(t, content)
			store := newS3(t, server.Bucket, config)
			for call, err := range calls(t.Context(), store, "a") {
				wantUnavailable(t, call+" with another "+name, err, "credentials", "not-the-secret")
			}
		}
	})

	t.Run("no credentials", func(t *testing.T) {
		for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} {
			t.Setenv(name, "")
		}
		config := options(server)
		config.CredentialsFile = ""
		for call, err := range calls(t.Context(), newS3(t, server.Bucket, config), "a") {
			wantUnavailable(t, call, err, "the credentials do not allow the request, or there are none")
		}
	})

	t.Run("credentials of the environment", func(t *testing.T) {
		t.Setenv("AWS_ACCESS_KEY_ID", server.AccessKeyID)
		t.Setenv("AWS_SECRET_ACCESS_KEY", server.SecretAccessKey)
		config := options(server)
		config.CredentialsFile = ""
		mustPut(t, newS3(t, server.Bucket, config), "a", []byte("x"))
	})

	t.Run("credentials are read again", func(t *testing.T) {
		config := options(server)
		config.CredentialsFile = writeFile(t, "[default]\naws_access_key_id=OLD\naws_secret_access_key=old\n")
		store := newS3(t, server.Bucket, config)
		_, err := store.List(t.Context(), "")
		wantUnavailable(t, "List", err, "the credentials are wrong")
		right, err := os.ReadFile(server.CredentialsFile)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(config.CredentialsFile, right, 0o600); err != nil {
			t.Fatal(err)
		}
		mustPut(t, store, "a", []byte("x"))
		if err := os.Remove(config.CredentialsFile); err != nil {
			t.Fatal(err)
		}
		_, err = store.List(t.Context(), "")
		wantUnavailable(t, "List", err, config.CredentialsFile)
	})

	t.Run("missing bucket", func(t *testing.T) {
		for call, err := range calls(t.Context(), newS3(t, "missing", options(server)), "a") {
			wantUnavailable(t, call, err, "the bucket does not exist")
		}
	})

	t.Run("unknown authority", func(t *testing.T) {
		config := options(server)
		config.CAFile = ""
		for call, err := range calls(t.Context(), newS3(t, server.Bucket, config), "a") {
			wantUnavailable(t, call, err, "certificate signed by unknown authority", server.SecretAccessKey)
		}
	})

	t.Run("a server that is away and comes back", func(t *testing.T) {
		store := newS3(t, server.Bucket, options(server))
		mustPut(t, store, "before", object)
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		for call, err := range calls(t.Context(), store, "other") {
			wantUnavailable(t, call, err, "connection refused", server.SecretAccessKey)
		}
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantBody(t, store, "before", 0, 8<<20, object)
		mustPut(t, store, "other", nil)
	})

	t.Run("a server that does not answer", func(t *testing.T) {
		proxy, store := behindProxy(t, server)
		mustPut(t, store, "before", nil)
		proxy.Stall(false, true)
		store.timeout = 100 * time.Millisecond
		for call, err := range calls(t.Context(), store, "other") {
			wantUnavailable(t, call, err, "did not answer within 100ms")
		}
		store.timeout = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		for call, err := range calls(ctx, store, "other") {
			wantError(t, call, err, context.DeadlineExceeded)
		}
		proxy.Resume()
		store.timeout = operationTimeout
		wantBody(t, store, "before", 0, 1, nil)
	})

	t.Run("a connection that is closed while it is idle", func(t *testing.T) {
		proxy, store := behindProxy(t, server)
		mustPut(t, store, "first", nil)
		for i := range 5 {
			mustPut(t, store, fmt.Sprint("a/", i), object)
			if !proxy.Close() {
				t.Error("the connection was not kept")
			}
		}
	})
}

func TestS3ErrorsHaveReasons(t *testing.T) {
	answer := func(status int, code string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(status)
			if code != "" && r.Method != http.MethodHead {
				fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, r.Header.Get("Authorization"))
			}
		}
	}
	for _, c := range []struct {
		name    string
		handler http.HandlerFunc
		reason  string
	}{
		{"slow down", answer(503, "SlowDown"), "overloaded"},
		{"a proxy without a server", answer(503, ""), "overloaded"},
		{"too many requests", answer(429, "TooManyRequests"), "overloaded"},
		{"failure", answer(500, "InternalError"), "the server has failed"},
		{"full", answer(507, "XMinioStorageFull"), "full"},
		{"another region", answer(301, "PermanentRedirect"), "another region"},
		{"expired", answer(403, ""), "the credentials do not allow the request"},
		{"a cut connection", func(w http.ResponseWriter, r *http.Request) {
			switch r.Method {
			case http.MethodHead:
				w.WriteHeader(http.StatusNotFound)
				return
			case http.MethodPut:
				_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
			case http.MethodGet:
				w.Header().Set("Content-Length", "8388608")
				w.Header().Set("Content-Range", "bytes 0-8388607/8388608")
				w.Header().Set("Last-Modified", time.Unix(0, 0).UTC().Format(http.TimeFormat))
				_, _ = w.Write(make([]byte, 1<<20))
			}
			panic(http.ErrAbortHandler)
		}, "connection"},
		{"a web server", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusMethodNotAllowed)
			fmt.Fprint(w, "<html>", r.Header.Get("Authorization"), strings.Repeat("x", 10_000))
		}, "does not accept the request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var requests atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				c.handler(w, r)
			}))
			defer server.Close()
			store := newS3(t, "bucket", S3Options{
				Endpoint: server.URL, CredentialsFile: writeFile(t, "access_key_id = THEKEY\nsecret_access_key = THESECRET\n"),
			})
			for _, support := range []conditionSupport{unknown, supported, unsupported} {
				store.conditions.Store(support)
				err := store.Put(t.Context(), "a", make([]byte, 8<<20))
				wantUnavailable(t, fmt.Sprint("Put in state ", support), err, c.reason, "THEKEY", "THESECRET")
			}
			_, err := store.List(t.Context(), "")
			wantUnavailable(t, "List", err, c.reason, "THEKEY", "THESECRET")
			_, err = store.ReadAt(t.Context(), "a", 0, 8<<20)
			wantUnavailable(t, "ReadAt", err, c.reason, "THEKEY", "THESECRET")
			// A put looks for the key and sends the object, and does so once more after a lost connection.
			if got := requests.Load(); got > 3*4+1+1 {
				t.Errorf("the calls sent %d requests, want 14 at most", got)
			}
		})
	}
}

// memory is an S3 server without List that keeps objects in memory.
type memory struct {
	// condition is what it does with If-None-Match: "honor", "refuse" or "ignore".
	condition string

	mu      sync.Mutex
	objects map[string][]byte
	// puts counts requests that have stored an object.
	puts int
}

func (m *memory) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	object, exists := m.objects[r.URL.Path]
	conditional := r.Header.Get("If-None-Match") == "*"
	switch {
	case r.Method == http.MethodPut && conditional && m.condition == "refuse":
		w.WriteHeader(http.StatusNotImplemented)
		fmt.Fprint(w, "<Error><Code>NotImplemented</Code></Error>")
	case r.Method == http.MethodPut && conditional && m.condition == "honor" && exists:
		w.WriteHeader(http.StatusPreconditionFailed)
	case r.Method == http.MethodPut:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		m.objects[r.URL.Path] = body
		m.puts++
	case !exists:
		w.WriteHeader(http.StatusNotFound)
	default: // GET and HEAD; it ignores ranges
		w.Header().Set("Last-Modified", time.Unix(0, 0).UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Length", fmt.Sprint(len(object)))
		if r.Method == http.MethodGet {
			_, _ = w.Write(object)
		}
	}
}

func TestS3NeverReplacesAnObject(t *testing.T) {
	for _, c := range []struct {
		condition string
		puts      int
		support   conditionSupport
	}{
		{condition: "honor", puts: 3, support: supported},
		{condition: "refuse", puts: 3, support: unsupported},
		// The second put of the first object has the same bytes.
		{condition: "ignore", puts: 4, support: unsupported},
	} {
		t.Run(c.condition, func(t *testing.T) {
			backend := &memory{condition: c.condition, objects: map[string][]byte{"/bucket/p/old": []byte("old")}}
			server := httptest.NewServer(backend)
			defer server.Close()
			store, err := NewS3("bucket", "p", S3Options{Endpoint: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			// The first put of a process must not replace an object either.
			wantError(t, "Put of an old object", store.Put(t.Context(), "old", []byte("new")), ErrExists)
			for i := range 3 {
				key := fmt.Sprint(i)
				mustPut(t, store, key, []byte("first"))
				wantError(t, "second Put", store.Put(t.Context(), key, []byte("second")), ErrExists)
			}
			backend.mu.Lock()
			defer backend.mu.Unlock()
			if got := string(backend.objects["/bucket/p/old"]); got != "old" {
				t.Errorf("the old object is %q", got)
			}
			for i := range 3 {
				if got := string(backend.objects[fmt.Sprint("/bucket/p/", i)]); got != "first" {
					t.Errorf("object %d is %q, want what the first put has sent", i, got)
				}
			}
			if got := store.conditions.Load(); backend.puts != c.puts || got != c.support {
				t.Errorf("%d puts and state %d, want %d puts and state %d", backend.puts, got, c.puts, c.support)
			}
		})
	}
}

// A server closes connections that are idle, and may do so while the next request is on its way.
func TestS3PutsOnceMoreAfterALostConnection(t *testing.T) {
	for _, c := range []struct {
		name string
		// stored reports whether the server stores the object before the connection is lost.
		stored bool
		want   error
	}{
		{name: "the object is not stored"},
		{name: "the object is stored", stored: true, want: ErrExists},
	} {
		for _, support := range []conditionSupport{unknown, supported, unsupported} {
			t.Run(fmt.Sprintf("%s in state %d", c.name, support), func(t *testing.T) {
				backend := &memory{condition: "honor", objects: map[string][]byte{}}
				var lose sync.Once
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodPut {
						lose.Do(func() {
							if c.stored {
								backend.ServeHTTP(w, r)
							}
							panic(http.ErrAbortHandler)
						})
					}
					backend.ServeHTTP(w, r)
				}))
				defer server.Close()
				store, err := NewS3("bucket", "", S3Options{Endpoint: server.URL})
				if err != nil {
					t.Fatal(err)
				}
				store.conditions.Store(support)
				if err := store.Put(t.Context(), "a", []byte("body")); !errors.Is(err, c.want) {
					t.Errorf("Put: %v, want %v", err, c.want)
				}
				wantBody(t, store, "a", 0, 10, []byte("body"))
				if backend.puts != 1 {
					t.Errorf("the server stored %d objects, want 1", backend.puts)
				}
			})
		}
	}
}

func TestS3ReadsFromServersThatIgnoreRanges(t *testing.T) {
	server := httptest.NewServer(&memory{objects: map[string][]byte{"/bucket/object": []byte("0123456789")}})
	defer server.Close()
	store, err := NewS3("bucket", "", S3Options{Endpoint: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	wantBody(t, store, "object", 0, 4, []byte("0123"))
	wantBody(t, store, "object", 3, 4, []byte("3456"))
	wantBody(t, store, "object", 8, 4, []byte("89"))
	wantBody(t, store, "object", 10, 4, nil)
	wantBody(t, store, "object", 11, 4, nil)
}

// behindProxy returns a proxy in front of a server, and a store that uses it.
func behindProxy(t *testing.T, server *host.S3) (*faultproxy.Proxy, *S3) {
	t.Helper()
	proxy := faultproxy.New(t, strings.TrimPrefix(server.Endpoint, "https://"))
	config := options(server)
	config.Endpoint = "https://" + proxy.Address
	return proxy, newS3(t, server.Bucket, config)
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
