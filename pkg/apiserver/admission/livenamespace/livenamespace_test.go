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

package livenamespace

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/utils/clock"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// host returns the same namespace for all names.
type host struct {
	corev1client.NamespaceInterface
	mu     sync.Mutex
	gets   int
	answer corev1.Namespace
	err    error
	delay  time.Duration // of each answer
}

func (h *host) Namespaces() corev1client.NamespaceInterface { return h }

func (h *host) Get(ctx context.Context, _ string, _ metav1.GetOptions) (*corev1.Namespace, error) {
	h.mu.Lock()
	h.gets++
	answer, err := h.answer, h.err
	h.mu.Unlock()
	select {
	case <-time.After(h.delay):
		return &answer, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (h *host) set(change func(*host)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h)
}

func (h *host) reads() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gets
}

func newPlugin(t *testing.T, h *host) admission.ValidationInterface {
	t.Helper()
	p := New(clock.RealClock{})
	if p.(admission.InitializationValidator).ValidateInitialization() == nil {
		t.Error("ValidateInitialization returned no error without a host")
	}
	Initializer(h).Initialize(p)
	if err := p.(admission.InitializationValidator).ValidateInitialization(); err != nil {
		t.Error(err)
	}
	return p
}

func create(ctx context.Context, p admission.ValidationInterface, namespace, subresource string) error {
	return p.Validate(ctx, admission.NewAttributesRecord(nil, nil, v1alpha1.SchemeGroupVersion.WithKind("Task"), namespace, "task",
		v1alpha1.SchemeGroupVersion.WithResource("tasks"), subresource, admission.Create, nil, false, nil), nil)
}

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		name   string
		host   *host
		status int32
		cause  metav1.CauseType
		retry  int
	}{
		{"active", &host{}, 0, "", 0},
		{"terminating", &host{answer: corev1.Namespace{Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}}}, 403, corev1.NamespaceTerminatingCause, 0},
		{"deleted", &host{answer: corev1.Namespace{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{}}}}, 403, corev1.NamespaceTerminatingCause, 0},
		{"gone", &host{err: apierrors.NewNotFound(corev1.Resource("namespaces"), "ns")}, 404, "", 0},
		{"forbidden", &host{err: apierrors.NewForbidden(corev1.Resource("namespaces"), "ns", nil)}, 503, "", 1},
		{"down", &host{err: errors.New("connection refused")}, 503, "", 1},
		{"slow", &host{delay: time.Minute}, 503, "", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlugin(t, test.host)
				err := create(t.Context(), p, "ns", "")
				if test.status == 0 {
					if err != nil {
						t.Error(err)
					}
					return
				}
				status, ok := errors.AsType[*apierrors.StatusError](err)
				if !ok || status.ErrStatus.Code != test.status {
					t.Fatalf("got %v, want status %d", err, test.status)
				}
				if test.cause != "" && !apierrors.HasStatusCause(err, test.cause) {
					t.Errorf("%v has no cause %s", err, test.cause)
				}
				if seconds, ok := apierrors.SuggestsClientDelay(err); ok != (test.retry > 0) || seconds != test.retry {
					t.Errorf("%v has a Retry-After of %d s, want %d", err, seconds, test.retry)
				}
				// Refusals are not cached.
				test.host.set(func(h *host) { h.answer, h.err, h.delay = corev1.Namespace{}, nil, 0 })
				if err := create(t.Context(), p, "ns", ""); err != nil {
					t.Errorf("once the namespace is active: %v", err)
				}
			})
		})
	}
}

func TestActiveNamespacesAreCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{}
		p := newPlugin(t, h)
		// 1,000 creates in each of two namespaces, over ten seconds.
		for range 1000 {
			for _, namespace := range []string{"a", "b"} {
				if err := create(t.Context(), p, namespace, ""); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
		if got := h.reads(); got != 20 {
			t.Errorf("got %d reads in ten seconds, want one per second for each of two namespaces", got)
		}
		for _, subresource := range []string{"binding", "eviction"} {
			if err := create(t.Context(), p, "c", subresource); err != nil || h.reads() != 20 {
				t.Errorf("subresource %s: got %v and %d reads, want no error and no read", subresource, err, h.reads()-20)
			}
		}
		if err := create(t.Context(), p, "", ""); err != nil || h.reads() != 20 {
			t.Errorf("cluster-scoped: got %v and %d reads, want no error and no read", err, h.reads()-20)
		}
	})
}

func TestTTLBeginsWithTheRead(t *testing.T) {
	for _, delay := range []time.Duration{0, 400 * time.Millisecond, 2 * time.Second} {
		t.Run(fmt.Sprint("the host takes ", delay), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &host{delay: delay}
				p := newPlugin(t, h)
				if err := create(t.Context(), p, "ns", ""); err != nil {
					t.Fatal(err)
				}
				// The host's answer dates from the start of the read.
				h.set(func(h *host) { h.answer.Status.Phase = corev1.NamespaceTerminating })
				time.Sleep(max(0, ttl-delay) + 1)
				if err := create(t.Context(), p, "ns", ""); !apierrors.IsForbidden(err) {
					t.Errorf("the namespace is cached as active %s after the read: %v", max(ttl, delay), err)
				}
			})
		})
	}
}

func TestConcurrentCreatesShareARead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{delay: 500 * time.Millisecond}
		p := newPlugin(t, h)
		cancelled, cancel := context.WithCancel(t.Context())
		var creates sync.WaitGroup
		creates.Go(func() {
			if err := create(cancelled, p, "ns", ""); !apierrors.IsServiceUnavailable(err) {
				t.Errorf("cancelled create: got %v", err)
			}
		})
		synctest.Wait()
		for range 100 {
			creates.Go(func() {
				if err := create(t.Context(), p, "ns", ""); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		cancel() // the request that started the read; the read goes on for the others
		creates.Wait()
		if got := h.reads(); got != 1 {
			t.Errorf("101 concurrent creates made %d reads, want 1", got)
		}
	})
}
