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

package kit

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/leat-dev/leat/pkg/apiserver/authentication/pod"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/host"
)

// Kubelet runs the pods of a namespace on this machine: the host has neither nodes nor a scheduler. Each pod is a real
// leat-worker, with the rights of the pod's service account. The images and commands of the pods are ignored.
type Kubelet struct {
	env       *Env
	t         testing.TB
	namespace string
	args      []string
	cluster   kubernetes.Interface
	wg        sync.WaitGroup

	mu   sync.Mutex
	pods map[types.UID]*runningPod
}

// runningPod is a pod that the Kubelet has seen.
type runningPod struct {
	name string
	// process is nil until it has been started.
	process  *host.Process
	stopping bool
	killed   bool
}

// StartKubelet runs the pods of a namespace until the test ends, with these arguments of leat-worker.
func (e *Env) StartKubelet(t testing.TB, namespace string, args ...string) *Kubelet {
	t.Helper()
	k := &Kubelet{env: e, t: t, namespace: namespace, args: args, cluster: e.HostClient(t), pods: map[types.UID]*runningPod{}}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	k.wg.Go(func() {
		for await.Pause(ctx, 100*time.Millisecond) {
			if err := k.sync(ctx); err != nil && ctx.Err() == nil {
				t.Log("kubelet:", err) // the host may restart
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		k.wg.Wait()
		for _, p := range k.pods {
			if p.process != nil {
				Check(t, p.process.Kill())
			}
		}
	})
	return k
}

// Kill kills the process of a pod, as if its node had lost its power. The pod remains until somebody deletes it.
func (k *Kubelet) Kill(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.pods {
		if p.name == name && p.process != nil && !p.killed {
			p.killed = true
			return p.process.Kill()
		}
	}
	return fmt.Errorf("pod %s does not run", name)
}

// sync starts the pods that are new, and stops those that are being deleted.
func (k *Kubelet) sync(ctx context.Context) error {
	list, err := k.cluster.CoreV1().Pods(k.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for i := range list.Items {
		obj := &list.Items[i]
		p := k.pods[obj.UID]
		switch {
		case obj.Spec.NodeName == "":
			errs = append(errs, k.cluster.CoreV1().Pods(k.namespace).Bind(ctx, &corev1.Binding{
				ObjectMeta: metav1.ObjectMeta{Name: obj.Name, UID: obj.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: "node"},
			}, metav1.CreateOptions{}))
		case p == nil:
			p = &runningPod{name: obj.Name}
			k.pods[obj.UID] = p
			k.wg.Go(func() { k.report(k.start(ctx, obj, p)) })
		case obj.DeletionTimestamp != nil && p.process != nil && !p.stopping:
			p.stopping = true
			k.wg.Go(func() { k.report(k.stop(ctx, obj, p)) })
		case p.process != nil && !p.killed && !p.stopping && p.process.Err() != nil:
			return p.process.Err()
		}
	}
	return errors.Join(errs...)
}

// report fails the test, unless it has ended.
func (k *Kubelet) report(err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		k.t.Errorf("kubelet: %v", err)
	}
}

// start starts the process of a pod and reports that it is ready.
func (k *Kubelet) start(ctx context.Context, obj *corev1.Pod, p *runningPod) error {
	token, err := k.env.Host.ServiceAccountToken(ctx, k.namespace, obj.Spec.ServiceAccountName, authenticationv1.TokenRequestSpec{
		Audiences:      []string{pod.Audience},
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: obj.Name, UID: obj.UID},
	})
	if apierrors.IsNotFound(err) || ctx.Err() != nil {
		return ctx.Err() // the pod has been deleted
	}
	if err != nil {
		return err
	}
	config := k.env.Anonymous(k.t)
	config.BearerToken = token
	dir := filepath.Join(k.env.dir, k.namespace, string(obj.UID))
	process, err := host.StartProcess(ctx, host.Command{
		Name: obj.Name, Path: Program(k.t, "leat-worker"), Dir: dir, Env: []string{"POD_NAME=" + obj.Name}, Grace: time.Hour,
		Args: append([]string{"--kubeconfig=" + k.env.Kubeconfig(k.t, config, k.namespace), "--state-dir=" + dir, "-v=2"}, k.args...),
	})
	if err != nil {
		return err
	}
	k.mu.Lock()
	p.process = process
	k.mu.Unlock()
	now := metav1.Now()
	obj = obj.DeepCopy()
	obj.Status.Phase = corev1.PodRunning
	obj.Status.StartTime = &now
	obj.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now}}
	_, err = k.cluster.CoreV1().Pods(k.namespace).UpdateStatus(ctx, obj, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // it is being deleted
	}
	return err
}

// stop stops the process of a pod, which may take as long as it wants, and removes the pod.
func (k *Kubelet) stop(ctx context.Context, obj *corev1.Pod, p *runningPod) error {
	stopped := make(chan error, 1)
	go func() { stopped <- p.process.Stop() }()
	select {
	case err := <-stopped:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return ctx.Err() // the test has ended, and kills the process
	}
	err := k.cluster.CoreV1().Pods(k.namespace).Delete(ctx, obj.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64(0)), Preconditions: &metav1.Preconditions{UID: &obj.UID},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
