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
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
)

// encrypted is a server with data of its own. Its encryption at rest is turned on, and later uses another key.
type encrypted struct {
	*kit.Env
	namespace string
}

const (
	// encryptedPrefix is the prefix of its keys in etcd.
	encryptedPrefix = "/encrypted"
	// secret is part of all its objects.
	secret = "correct-horse-battery-staple"
)

// startEncrypted starts the server without encryption, turns encryption on, and writes a configuration with a new key.
// The server reads its configuration once a minute, so encrypted.test checks the new key later.
func startEncrypted(t *testing.T, e *kit.Env) *encrypted {
	t.Helper()
	config := filepath.Join(t.TempDir(), "encryption.yaml")
	configure := func(providers ...string) {
		t.Helper()
		kit.Check(t, pki.WriteFile(config, []byte("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n"+
			"- resources: ['*.batch.leat.dev']\n  providers:\n  - "+strings.Join(providers, "\n  - ")+"\n")))
	}
	provider := func(kind, name string) string {
		key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte(name[:1]), 32))
		return fmt.Sprintf("%s: {keys: [{name: %s, secret: %s}]}", kind, name, key)
	}
	configure("identity: {}")
	s := &encrypted{e.Replica(t, "--etcd-prefix="+encryptedPrefix, "--encryption-provider-config="+config, "--encryption-provider-config-automatic-reload=true"), e.Namespace(t)}
	s.create(t, "plain")
	if got := s.stored(t, "plain"); !bytes.Contains(got, []byte(secret)) {
		t.Errorf("value in etcd without encryption: got %q, want it to contain the secret", got)
	}

	configure(provider("secretbox", "first"), "identity: {}")
	kit.Check(t, s.Server.Restart(t.Context()))
	s.create(t, "boxed")
	if got := s.stored(t, "boxed"); !bytes.HasPrefix(got, []byte("k8s:enc:secretbox:v1:first:")) || bytes.Contains(got, []byte(secret)) {
		t.Errorf("value in etcd with encryption: got %q, want it encrypted", got)
	}
	s.readable(t, "plain", "boxed")
	configure(provider("aescbc", "second"), provider("secretbox", "first"), "identity: {}")
	return s
}

// test waits until the server uses the new key, checks all values in etcd, and stops the server.
func (s *encrypted) test(t *testing.T) {
	ctx := t.Context()
	written := []byte("k8s:enc:aescbc:v1:second:")
	kit.Eventually(t, "writes are encrypted with the new key", func(ctx context.Context) error {
		if err := s.touch(ctx, t, "plain"); err != nil {
			return err
		}
		if got := s.stored(t, "plain"); !bytes.HasPrefix(got, written) {
			return fmt.Errorf("value in etcd: got %.40q, want prefix %q", got, written)
		}
		return nil
	})
	s.readable(t, "plain", "boxed")
	kit.Check(t, s.touch(ctx, t, "boxed"))
	kit.Must(kit.Client(t, s.Direct(t, "alice", "leat:admins")).BatchV1alpha1().TaskSets(s.namespace).Create(ctx, kit.NewTaskSet(secret), metav1.CreateOptions{}))(t)

	client := s.EtcdClient(t)
	all := kit.Must(client.Get(ctx, encryptedPrefix+"/", clientv3.WithPrefix()))(t)
	objects := 0
	for _, kv := range all.Kvs {
		if !strings.Contains(string(kv.Key), "/"+s.namespace+"/") {
			continue
		}
		objects++
		if !bytes.HasPrefix(kv.Value, written) || bytes.Contains(kv.Value, []byte(secret)) {
			t.Errorf("value of %s in etcd: got %q, want it encrypted with the new key", kv.Key, kv.Value)
		}
	}
	if objects != 3 {
		t.Errorf("objects in etcd: got %d, want 3", objects)
	}
	kit.Check(t, s.Server.Restart(ctx))
	s.readable(t, "plain", "boxed")
	kit.Check(t, s.Server.Kill())
}

func (s *encrypted) create(t testing.TB, name string) {
	t.Helper()
	task := kit.NewTask(name)
	task.Spec.Env = []v1alpha1.EnvVar{{Name: "VALUE", Value: secret}}
	kit.Must(kit.Client(t, s.Direct(t, "alice", "leat:admins")).BatchV1alpha1().Tasks(s.namespace).Create(t.Context(), task, metav1.CreateOptions{}))(t)
}

// touch updates a task without a change. The server stores it again if the stored value is stale.
func (s *encrypted) touch(ctx context.Context, t testing.TB, name string) error {
	t.Helper()
	tasks := kit.Client(t, s.Direct(t, "alice", "leat:admins")).BatchV1alpha1().Tasks(s.namespace)
	task, err := tasks.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	_, err = tasks.Update(ctx, task, metav1.UpdateOptions{})
	return err
}

// readable fails the test unless the server lists these tasks with their secret.
func (s *encrypted) readable(t testing.TB, names ...string) {
	t.Helper()
	list := kit.Must(kit.Client(t, s.Direct(t, "alice", "leat:admins")).BatchV1alpha1().Tasks(s.namespace).List(t.Context(), metav1.ListOptions{}))(t)
	found := map[string]bool{}
	for _, task := range list.Items {
		found[task.Name] = len(task.Spec.Env) == 1 && task.Spec.Env[0].Value == secret
	}
	for _, name := range names {
		if !found[name] {
			t.Errorf("task %s is missing or has no secret: got %v", name, found)
		}
	}
}

// stored returns the value of a task in etcd.
func (s *encrypted) stored(t testing.TB, name string) []byte {
	t.Helper()
	client := kit.Must(s.Etcd.Client())(t)
	defer client.Close()
	response := kit.Must(client.Get(t.Context(), encryptedPrefix+"/tasks/"+s.namespace+"/"+name))(t)
	if len(response.Kvs) != 1 {
		t.Fatalf("etcd has no task %s", name)
	}
	return response.Kvs[0].Value
}
