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
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// cluster is a host cluster with Leat.
type cluster struct {
	*kit.Env
	kube kubernetes.Interface
	// store is the etcd of Leat.
	store *store
}

// newCluster starts a cluster, in which the user root is an administrator.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	e := kit.Aggregated(t)
	e.BindClusterRole(t, "", "root", "cluster-admin", kit.UserSubject("root"))
	return &cluster{e, e.HostClient(t), storeOf(t, e.Etcd)}
}

// serve starts a server over another store until the test ends.
func (c *cluster) serve(t testing.TB, store *store, args ...string) *kit.Env {
	t.Helper()
	return c.Replica(t, append([]string{
		"--etcd-servers=" + strings.Join(store.endpoints(), ","),
		"--etcd-cafile=" + store.caFile, "--etcd-certfile=" + store.certFile, "--etcd-keyfile=" + store.keyFile,
	}, args...)...)
}

// collectOften makes a server collect garbage at any heap size, so that its memory shows what it holds.
const collectOften = "--gc-heap-floor=0"

// documented fails the test unless a page of the documentation has the texts: the test does what the page tells users
// to do.
func documented(t testing.TB, page string, texts ...string) {
	t.Helper()
	content := kit.Must(os.ReadFile(filepath.Join(kit.Must(host.RepositoryRoot())(t), "docs", page)))(t)
	for _, text := range texts {
		if !strings.Contains(string(content), text) {
			t.Errorf("docs/%s does not have %q", page, text)
		}
	}
}

func newQueue(name string) *batch.TaskQueue {
	return &batch.TaskQueue{ObjectMeta: metav1.ObjectMeta{Name: name}}
}
