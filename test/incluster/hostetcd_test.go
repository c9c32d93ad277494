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
	"errors"
	"fmt"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// testHostEtcd checks that the host's etcd has nothing of tasks: no spec, no status and no name.
func testHostEtcd(t *testing.T, s *managed) {
	const marker = "written-into-tasks-only"
	namespace := s.Namespace(t)
	ctx := t.Context()
	s.worker(t, namespace, "worker")

	marked := func(name, script string) *v1alpha1.Task {
		task := kit.NewTask(name, "sh", "-c", "echo "+marker+" | tee /dev/stderr; "+script)
		task.Labels, task.Annotations = map[string]string{"example.com/label": marker}, map[string]string{"example.com/note": marker}
		task.Spec.Env = []v1alpha1.EnvVar{{Name: "MARKER", Value: marker}}
		return task
	}
	kit.Must(s.api.Tasks(namespace).Create(ctx, marked(marker, "true"), metav1.CreateOptions{}))(t)
	kit.Must(s.api.Tasks(namespace).Create(ctx, marked(marker+"-fails", "exit 1"), metav1.CreateOptions{}))(t)
	template := marked("", "exit 1")
	set := kit.NewTaskSet("set")
	set.Spec.Template = v1alpha1.TaskTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: template.Labels, Annotations: template.Annotations}, Spec: template.Spec}
	set.Spec.BackoffLimit = new(int32(0))
	kit.Must(s.api.TaskSets(namespace).Create(ctx, set, metav1.CreateOptions{}))(t)
	kit.Eventually(t, "all tasks have finished", func(ctx context.Context) error {
		tasks, err := s.api.Tasks(namespace).List(ctx, metav1.ListOptions{FieldSelector: "status.phase!=Pending,status.phase!=Running"})
		if err == nil && len(tasks.Items) != 3 {
			err = fmt.Errorf("%d tasks have finished", len(tasks.Items))
		}
		return err
	})

	// First show that the search works: it finds the tasks in Leat's etcd and a ConfigMap in the host's.
	if len(kit.Must(find(ctx, s.Etcd, marker))(t)) < 4 {
		t.Errorf("Leat's etcd has the marker in fewer than 4 keys")
	}
	maps := s.cluster.CoreV1().ConfigMaps(namespace)
	kit.Must(maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "probe"}, Data: map[string]string{"marker": marker}}, metav1.CreateOptions{}))(t)
	want := "/registry/configmaps/" + namespace + "/probe"
	if keys := kit.Must(find(ctx, s.Host.Etcd, marker))(t); len(keys) != 1 || keys[0] != want {
		t.Errorf("keys with the marker in the host's etcd: got %q, want only %s", keys, want)
	}
	if keys := kit.Must(find(ctx, s.Host.Etcd, "/registry/"+v1alpha1.GroupName+"/"))(t); len(keys) != 0 {
		t.Errorf("keys of Leat's group in the host's etcd: got %q, want none", keys)
	}
}

// find returns the keys of an etcd that contain a text, in the key or in the value.
func find(ctx context.Context, etcd *host.Etcd, text string) (keys []string, err error) {
	client, err := etcd.Client()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	all, err := client.Get(ctx, "\x00", clientv3.WithFromKey())
	if err != nil {
		return nil, err
	}
	for _, kv := range all.Kvs {
		if bytes.Contains(kv.Key, []byte(text)) || bytes.Contains(kv.Value, []byte(text)) {
			keys = append(keys, string(kv.Key))
		}
	}
	return keys, nil
}
