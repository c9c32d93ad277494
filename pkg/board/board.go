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

package board

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	eventsv1 "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
)

// Options configures a Board.
type Options struct {
	// Config has the address of the server and the credentials of the person.
	Config *rest.Config
	// Namespace is what is shown, all namespaces if it is empty.
	Namespace string
	// Program is the name of the program in commands: leat, or kubectl leat.
	Program string
	// Explain writes what "leat explain" prints of a task or a set: titles, and indented lines of two columns with a tab
	// between them.
	Explain func(ctx context.Context, namespace, name string, out io.Writer) error
}

// Board serves the page.
type Board struct {
	options Options
	client  versioned.Interface
	events  eventsv1.EventsV1Interface
	store   *store
	outputs chan struct{} // has an element for each output that is read
	read    chan struct{} // closed when a page has been read
	opened  sync.WaitGroup
	browser sync.WaitGroup // only tests wait for it: a browser may run for long
}

// maxOutputs is how many outputs are read at a time.
const maxOutputs = 4

// New returns a Board. It sends one request, so that an error of the configuration is reported at once.
func New(ctx context.Context, options Options) (*Board, error) {
	client, err := versioned.NewForConfig(options.Config)
	if err != nil {
		return nil, err
	}
	if err := mayList(ctx, client, options.Namespace); err != nil {
		return nil, err
	}
	events, err := eventsv1.NewForConfig(options.Config)
	if err != nil {
		return nil, err
	}
	store, err := newStore(options.Config, options.Namespace)
	if err != nil {
		return nil, err
	}
	return &Board{options: options, client: client, events: events, store: store, outputs: make(chan struct{}, maxOutputs), read: make(chan struct{})}, nil
}

// mayList returns an error unless all that is shown can be listed.
func mayList(ctx context.Context, client versioned.Interface, namespace string) error {
	api, one := client.BatchV1alpha1(), metav1.ListOptions{Limit: 1}
	_, err := api.TaskQueues(namespace).List(ctx, one)
	if err == nil {
		_, err = api.Workers(namespace).List(ctx, one)
	}
	if err == nil {
		_, err = api.TaskSets(namespace).List(ctx, one)
	}
	if err == nil {
		_, err = api.Tasks(namespace).List(ctx, one)
	}
	if apierrors.IsForbidden(err) && namespace == metav1.NamespaceAll {
		return errors.Join(err, errors.New("you may not list all namespaces: write --namespace and one that you may read"))
	}
	return err
}

// Serve answers requests at the listener, which must be on loopback, until ctx ends. token is the first segment of the
// path of each request.
func (b *Board) Serve(ctx context.Context, listener net.Listener, token string) error {
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.store.run(ctx)
	}()
	defer func() {
		stop()
		<-ended
		b.opened.Wait()
	}()
	server := &http.Server{
		Handler:           &guard{token: token, next: b.handler()},
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    64 << 10,
		// Streams end with ctx, so that Close does not cut them.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	err := server.Close()
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// handler serves the paths below the token.
func (b *Board) handler() http.Handler {
	pages, files := newPages(b.options), newFiles()
	read := sync.OnceFunc(func() { close(b.read) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; path {
		case "", "sets", "set", "pending":
			pages.serve(w, r, path)
			read()
		case "events":
			b.serveEvents(w, r)
		case "output":
			b.serveOutput(w, r)
		default:
			files.ServeHTTP(w, r)
		}
	})
}
