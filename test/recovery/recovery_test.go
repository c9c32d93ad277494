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

// Package recovery breaks the store in the ways that a store breaks, and mends it as docs/how-to/backup.md and docs/how-to/etcd.md say.
package recovery

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

const (
	pollInterval = 100 * time.Millisecond
	// patience is how long one step may take on a machine that is busy.
	patience = 90 * time.Second
)

// scene is one host, with one Leat behind its aggregator. Other stores get servers of their own.
type scene struct {
	*kit.Env
	cluster kubernetes.Interface
	// store is that of the Leat behind the aggregator.
	store *store
}

func TestRecovery(t *testing.T) {
	e := kit.On(t, host.ForTest(t))
	s := newScene(t, e, storeOf(t, e.Etcd))
	t.Run("Restore", func(t *testing.T) { testRestore(t, s) })
	t.Run("RestoreWhatWentSince", func(t *testing.T) { testWentSince(t, s) })
	t.Run("RestoreWithoutBump", func(t *testing.T) { testWithoutBump(t, s) })
	t.Run("Full", func(t *testing.T) { testFull(t, s) })
	t.Run("Undecodable", func(t *testing.T) { testUndecodable(t, s) })
	t.Run("Outage", func(t *testing.T) { testOutage(t, s) })
	t.Run("Stored", func(t *testing.T) { testStored(t, s) })
}

func newScene(t testing.TB, e *kit.Env, store *store) *scene {
	t.Helper()
	config := kit.Must(clientcmd.BuildConfigFromFlags("", e.Host.AdminKubeconfig))(t)
	config.QPS = -1
	return &scene{e, kubernetes.NewForConfigOrDie(config), store}
}

// serve starts a server over another store, for one test.
func (s *scene) serve(t testing.TB, store *store, args ...string) *kit.Env {
	t.Helper()
	return s.Replica(t, append([]string{
		"--etcd-servers=" + strings.Join(store.endpoints(), ","),
		"--etcd-cafile=" + store.caFile, "--etcd-certfile=" + store.certFile, "--etcd-keyfile=" + store.keyFile,
	}, args...)...)
}

// collectSoon has the memory of a server tell what it holds, and not what it has had no reason to collect yet.
const collectSoon = "--gc-heap-floor=0"

// documented fails the test unless a page of the documentation has each of the texts: what is done here is what people are told to do.
func documented(t testing.TB, page string, texts ...string) {
	t.Helper()
	content := kit.Must(os.ReadFile(filepath.Join(kit.Must(host.RepositoryRoot())(t), "docs", page)))(t)
	for _, text := range texts {
		if !strings.Contains(string(content), text) {
			t.Errorf("docs/%s does not say %q", page, text)
		}
	}
}

func newQueue(name string) *batch.TaskQueue {
	return &batch.TaskQueue{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// status gives what a server has said of a failure.
func status(err error) metav1.Status {
	var s apierrors.APIStatus
	if errors.As(err, &s) {
		return s.Status()
	}
	return metav1.Status{Message: fmt.Sprint(err)}
}
