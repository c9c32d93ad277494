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

package archive

import (
	"context"
	"time"

	"golang.org/x/sync/singleflight"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/utils/clock"
)

const (
	// namespaceTTL is how long the UID of a namespace is cached. The host takes longer to delete a namespace.
	namespaceTTL = 3 * time.Second
	// namespaceTimeout bounds the read of a namespace from the host.
	namespaceTimeout = 5 * time.Second
)

// NamespaceNames identifies namespaces by their names, for a server without a host.
func NamespaceNames(_ context.Context, namespace string) (string, error) { return namespace, nil }

// NamespaceUIDs identifies namespaces by their UIDs, which the function reads from the host. What was stored for a
// namespace is thus not found by another one of the same name.
func NamespaceUIDs(host corev1client.NamespacesGetter, c clock.PassiveClock) func(ctx context.Context, namespace string) (string, error) {
	uids := cache.NewLRUExpireCacheWithClock(maxNamespaces, c)
	var lookups singleflight.Group
	return func(ctx context.Context, name string) (string, error) {
		if uid, ok := uids.Get(name); ok {
			return uid.(string), nil
		}
		call := lookups.DoChan(name, func() (any, error) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), namespaceTimeout)
			defer cancel()
			namespace, err := host.Namespaces().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return "", err
			}
			uids.Add(name, string(namespace.UID), namespaceTTL)
			return string(namespace.UID), nil
		})
		select {
		case result := <-call:
			return result.Val.(string), result.Err
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}
