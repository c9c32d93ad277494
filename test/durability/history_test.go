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

package durability

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/history"
)

// namespaceHistory is what etcd stores of the tasks and task sets of a namespace, from a revision on.
type namespaceHistory struct {
	*history.Recorder
	namespace string
}

// recordHistory records the history of a new namespace until the test ends.
func recordHistory(t *testing.T, e *kit.Env, namespace string) *namespaceHistory {
	t.Helper()
	return &namespaceHistory{kit.Must(history.Record(t.Context(), e.EtcdClient(t), namespace))(t), namespace}
}

// until returns the changes up to a resourceVersion.
func (h *namespaceHistory) until(t *testing.T, resourceVersion string) []history.Change {
	t.Helper()
	revision := parseVersion(t, resourceVersion)
	kit.Check(t, h.Await(t.Context(), kit.Patience, revision))
	return history.UpTo(revision, h.Changes(h.namespace))
}

// await waits for a change and returns all changes so far.
func (h *namespaceHistory) await(t *testing.T, what string, matches func(history.Change) bool) []history.Change {
	t.Helper()
	var changes []history.Change
	kit.Eventually(t, "the history of etcd shows that "+what, func(context.Context) error {
		if err := h.Err(); err != nil {
			t.Fatal(err)
		}
		if changes = h.Changes(h.namespace); !slices.ContainsFunc(changes, matches) {
			return fmt.Errorf("none of %d changes does", len(changes))
		}
		return nil
	})
	return changes
}

func parseVersion(t *testing.T, resourceVersion string) int64 {
	t.Helper()
	return kit.Must(strconv.ParseInt(resourceVersion, 10, 64))(t)
}
