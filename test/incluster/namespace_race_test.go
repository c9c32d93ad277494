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

package incluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
)

// testNamespaceRace checks that no object is left in a deleted namespace, however late the server's informer of
// namespaces is. The cost to the host is one look-up of the namespace per second, not one per task.
func testNamespaceRace(t *testing.T, e *kit.Env) {
	const validity = time.Second // of a look-up
	ctx := t.Context()
	host := e.HostClient(t)
	hold := startHoldingProxy(t, e)
	through := "--kubeconfig=" + hold.kubeconfig
	tasksAt := func(e *kit.Env, namespace string) typed.TaskInterface {
		return tasksOf(t, e.Direct(t, "alice", "leat:admins"), namespace)
	}
	guarded := e.Replica(t, through)

	t.Run("creates cost one look-up a second", func(t *testing.T) {
		const creates = 1000
		tasks := tasksAt(guarded, e.Namespace(t))
		before, start := hold.lookups.Load(), time.Now()
		kit.Check(t, inParallel(ctx, 4, creates, func(ctx context.Context, i int) error {
			_, err := tasks.Create(ctx, kit.NewTask(fmt.Sprintf("task-%d", i)), metav1.CreateOptions{})
			return err
		}))
		took, lookups := time.Since(start), hold.lookups.Load()-before
		t.Logf("%d look-ups of the namespace for %d creates in %s", lookups, creates, took.Round(10*time.Millisecond))
		// One a second, the first at once, and one by NamespaceLifecycle if its informer does not have the new namespace yet.
		if most := int64(took/validity) + 2; lookups == 0 || lookups > most {
			t.Errorf("look-ups for %d creates in %s: got %d, want 1 to %d", creates, took, lookups, most)
		}
	})

	namespace := e.Namespace(t)
	tasks := tasksAt(guarded, namespace)
	kit.Must(tasks.Create(ctx, kit.NewTask("known-too"), metav1.CreateOptions{}))(t)
	// This server uses its informer alone. It shows that the proxy does hold events back.
	unguarded := tasksAt(e.Replica(t, through, "--disable-admission-plugins=LiveNamespace"), namespace)
	kit.Must(unguarded.Create(ctx, kit.NewTask("known"), metav1.CreateOptions{}))(t)
	hold.hold()
	deleteNamespace(t, e, namespace)
	deleted := time.Now()
	var tried, denied, admitted int
	kit.Eventually(t, "the namespace is deleted", func(ctx context.Context) error {
		started := time.Now()
		tried++
		_, err := tasks.Create(ctx, kit.NewTask(fmt.Sprintf("late-%d", tried)), metav1.CreateOptions{})
		switch {
		case err == nil && started.After(deleted.Add(validity)):
			t.Errorf("a create succeeds that was sent %s after the deletion of the namespace", started.Sub(deleted))
		case err == nil:
			admitted++
		case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) && apierrors.IsForbidden(err), apierrors.IsNotFound(err):
			denied++
		default:
			t.Errorf("create: got error %v, want not found or terminating", err)
		}
		return namespaceGone(ctx, host, namespace)
	})
	t.Logf("%d creates admitted in the first second, %d denied later", admitted, denied)
	if denied == 0 {
		t.Error("no create was denied: the namespace was gone too early")
	}
	if keys := kit.Must(storedKeys(ctx, e, namespace))(t); len(keys) != 0 {
		t.Errorf("keys of the deleted namespace: got %q, want none", keys)
	}
	if _, err := tasks.Create(ctx, kit.NewTask("late"), metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("create in the deleted namespace: got error %v, want not found", err)
	}
	if _, err := unguarded.Create(ctx, kit.NewTask("orphan"), metav1.CreateOptions{}); err != nil {
		t.Errorf("create at the server with the late informer: got error %v, want none: the proxy held nothing back", err)
	}
	kit.Check(t, unguarded.Delete(ctx, "orphan", metav1.DeleteOptions{}))
}

// holdingProxy is a proxy in front of the host. It counts look-ups of namespaces, and can hold back the events of
// watches of namespaces.
type holdingProxy struct {
	// kubeconfig reaches the host through the proxy, with the service account of the server.
	kubeconfig string
	lookups    atomic.Int64

	mu sync.Mutex
	// released is closed while events pass.
	released chan struct{}
}

func startHoldingProxy(t testing.TB, e *kit.Env) *holdingProxy {
	t.Helper()
	p := &holdingProxy{released: make(chan struct{})}
	close(p.released)
	target := kit.Must(url.Parse(e.Host.URL))(t)
	trust := kit.Must(rest.TLSConfigFor(rest.AnonymousClientConfig(e.HostConfig(t))))(t)
	ca := kit.Must(pki.NewCA("holding-proxy"))(t)
	cert, key, err := ca.IssueServer("127.0.0.1")
	kit.Check(t, err)
	server := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite:        func(request *httputil.ProxyRequest) { request.SetURL(target) },
		Transport:      &http.Transport{TLSClientConfig: trust, ForceAttemptHTTP2: true},
		FlushInterval:  -1,
		ModifyResponse: p.inspect,
	})
	server.TLS = &tls.Config{Certificates: []tls.Certificate{kit.Must(tls.X509KeyPair(cert, key))(t)}}
	server.StartTLS()
	t.Cleanup(func() {
		p.release()
		server.CloseClientConnections()
		server.Close()
	})

	config := kit.Must(clientcmd.LoadFromFile(kit.Must(e.Host.ServiceAccountKubeconfig("leat-system", "leat-apiserver"))(t)))(t)
	for _, cluster := range config.Clusters {
		cluster.Server, cluster.CertificateAuthorityData = server.URL, ca.CertPEM()
	}
	p.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	kit.Check(t, clientcmd.WriteToFile(*config, p.kubeconfig))
	return p
}

func (p *holdingProxy) inspect(response *http.Response) error {
	const namespaces = "/api/v1/namespaces"
	request := response.Request
	switch path := request.URL.Path; {
	case path == namespaces && request.URL.Query().Get("watch") != "":
		response.Body = &heldBody{response.Body, p}
	case request.Method == http.MethodGet && strings.HasPrefix(path, namespaces+"/") && strings.Count(path, "/") == strings.Count(namespaces, "/")+1:
		p.lookups.Add(1)
	}
	return nil
}

func (p *holdingProxy) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.released = make(chan struct{})
}

func (p *holdingProxy) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.released:
	default:
		close(p.released)
	}
}

// heldBody is a body whose reads return when events pass.
type heldBody struct {
	io.ReadCloser
	proxy *holdingProxy
}

func (b *heldBody) Read(into []byte) (int, error) {
	n, err := b.ReadCloser.Read(into)
	b.proxy.mu.Lock()
	released := b.proxy.released
	b.proxy.mu.Unlock()
	<-released
	return n, err
}
