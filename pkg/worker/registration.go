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

package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
)

// ErrSuperseded is returned by Run when another process has registered under the worker's name. What this one ran is killed:
// its successor gives those tasks back.
var ErrSuperseded = errors.New("another process has registered under the name of this worker; names must be unique in a namespace")

// registration keeps the Worker and the WorkerLease of one incarnation. It is for one goroutine at a time.
type registration struct {
	client      versioned.Interface
	options     Options
	incarnation string
	info        batch.WorkerInfo

	worker  *batch.Worker      // as last stored
	lease   *batch.WorkerLease // as last stored
	renewed time.Time
	// registered tells that the incarnation was published: from then on, one that differs is a successor's.
	registered bool
	// pressure decides how many tasks are allocatable.
	pressure *pressure
	// predecessor is the incarnation that the Worker had before, if that one was leaving. Else it is empty.
	predecessor string
}

func newRegistration(client versioned.Interface, options Options, incarnation string) *registration {
	hostname, _ := os.Hostname()
	bootID, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	tasks := options.Capacity[batch.ResourceTasks]
	return &registration{
		client: client, options: options, incarnation: incarnation,
		pressure: newPressure(tasks.Value(), options.BackoffBase, options.BackoffCap),
		info: batch.WorkerInfo{
			Version:  options.Version,
			OS:       runtime.GOOS,
			Arch:     runtime.GOARCH,
			Hostname: hostname,
			BootID:   strings.TrimSpace(string(bootID)),
		},
	}
}

// register creates the Worker and its lease, or adopts those of an earlier process, and publishes the incarnation.
func (g *registration) register(ctx context.Context, ready metav1.Condition) error {
	workers := g.client.BatchV1alpha1().Workers(g.options.Namespace)
	worker, err := bounded(ctx, &batch.Worker{
		ObjectMeta: metav1.ObjectMeta{Name: g.options.Name, Namespace: g.options.Namespace, Labels: g.options.Labels},
		Spec:       batch.WorkerSpec{Taints: g.options.Taints},
	}, func(ctx context.Context, w *batch.Worker) (*batch.Worker, error) {
		return workers.Create(ctx, w, metav1.CreateOptions{})
	})
	if apierrors.IsAlreadyExists(err) {
		worker, err = g.readWorker(ctx)
		if err == nil {
			if leaving(worker) {
				g.predecessor = worker.Status.Incarnation
			}
			labels := maps.Clone(worker.Labels)
			if labels == nil {
				labels = map[string]string{}
			}
			maps.Copy(labels, g.options.Labels)
			if !maps.Equal(labels, worker.Labels) {
				worker.Labels = labels
				worker, err = bounded(ctx, worker, func(ctx context.Context, w *batch.Worker) (*batch.Worker, error) {
					return workers.Update(ctx, w, metav1.UpdateOptions{})
				})
			}
		}
	}
	if err != nil {
		return fmt.Errorf("registering the worker: %w", err)
	}
	g.worker = worker
	// The sign of life comes first: a worker that says it is ready on a lease that ran out would be doubted at once.
	if err := g.renew(ctx); err != nil {
		return err
	}
	return g.publish(ctx, ready, 0)
}

// renew renews the lease, and creates it if need be.
func (g *registration) renew(ctx context.Context) error {
	leases := g.client.BatchV1alpha1().WorkerLeases(g.options.Namespace)
	if g.lease == nil {
		lease, err := bounded(ctx, g.options.Name, func(ctx context.Context, name string) (*batch.WorkerLease, error) {
			return leases.Get(ctx, name, metav1.GetOptions{})
		})
		switch {
		case apierrors.IsNotFound(err):
			lease = &batch.WorkerLease{ObjectMeta: metav1.ObjectMeta{Name: g.options.Name, Namespace: g.options.Namespace}}
		case err != nil:
			return fmt.Errorf("reading the lease: %w", err)
		case g.registered && lease.Spec.HolderIdentity != g.incarnation:
			return ErrSuperseded
		}
		g.lease = lease
	}
	now := metav1.NowMicro()
	duration := int32(g.options.LeaseDuration / time.Second)
	next := g.lease.DeepCopy()
	next.Spec = batch.WorkerLeaseSpec{HolderIdentity: g.incarnation, LeaseDurationSeconds: &duration, RenewTime: &now}
	stored, err := bounded(ctx, next, func(ctx context.Context, l *batch.WorkerLease) (*batch.WorkerLease, error) {
		if l.UID == "" {
			return leases.Create(ctx, l, metav1.CreateOptions{})
		}
		return leases.Update(ctx, l, metav1.UpdateOptions{})
	})
	if err != nil {
		g.lease = nil // to be read again, whoever has changed or deleted it
		return fmt.Errorf("renewing the lease: %w", err)
	}
	// By the calendar, which goes on while a machine sleeps.
	g.lease, g.renewed = stored, now.Round(0)
	return nil
}

// publish writes the Worker's status unless it says all that already.
func (g *registration) publish(ctx context.Context, ready metav1.Condition, running int32) error {
	next := g.worker.DeepCopy()
	limit, pressure := g.pressure.state()
	if pressure == nil && meta.FindStatusCondition(next.Status.Conditions, batch.WorkerResourcePressure) != nil {
		pressure = &sufficientCondition
	}
	next.Status.Capacity, next.Status.Allocatable = g.options.Capacity, maps.Clone(g.options.Capacity)
	next.Status.Allocatable[batch.ResourceTasks] = *resource.NewQuantity(limit, resource.DecimalSI)
	next.Status.Incarnation, next.Status.RunningTasks, next.Status.WorkerInfo = g.incarnation, running, g.info
	next.Status.Endpoint = g.options.Endpoint
	meta.SetStatusCondition(&next.Status.Conditions, ready)
	if pressure != nil {
		meta.SetStatusCondition(&next.Status.Conditions, *pressure)
	}
	if equality.Semantic.DeepEqual(next.Status, g.worker.Status) {
		return nil
	}
	stored, err := bounded(ctx, next, func(ctx context.Context, w *batch.Worker) (*batch.Worker, error) {
		return g.client.BatchV1alpha1().Workers(g.options.Namespace).UpdateStatus(ctx, w, metav1.UpdateOptions{})
	})
	if err != nil {
		return fmt.Errorf("updating the worker's status: %w", err)
	}
	g.worker, g.registered = stored, true
	return nil
}

// readWorker reads the Worker. It fails with ErrSuperseded if that has become another process's.
func (g *registration) readWorker(ctx context.Context) (*batch.Worker, error) {
	worker, err := bounded(ctx, g.options.Name, func(ctx context.Context, name string) (*batch.Worker, error) {
		return g.client.BatchV1alpha1().Workers(g.options.Namespace).Get(ctx, name, metav1.GetOptions{})
	})
	if err == nil && g.registered && worker.Status.Incarnation != g.incarnation {
		return nil, ErrSuperseded
	}
	return worker, err
}

// reasonStopUnknown is the reason of Ready=Unknown of a worker that has fallen silent while it stopped.
const reasonStopUnknown = "WorkerStopUnknown"

// leaving reports whether a worker stops, or somebody takes it out of service: what ends its commands then is not the
// fault of any of them. The lifecycle controller judges lost workers by the same rule.
func leaving(worker *batch.Worker) bool {
	ready := meta.FindStatusCondition(worker.Status.Conditions, batch.WorkerReady)
	return worker.Spec.Unschedulable || ready != nil &&
		slices.Contains([]string{drainingCondition.Reason, stoppedCondition.Reason, reasonStopUnknown}, ready.Reason)
}

// keep renews the lease at every interval and publishes what has changed, pressure and draining at once, until ctx is
// done or the worker is superseded. Once draining is closed, the worker says that it takes no more tasks.
func (g *registration) keep(ctx context.Context, draining <-chan struct{}, running func() int32) error {
	ticker := time.NewTicker(g.options.HeartbeatInterval)
	defer ticker.Stop()
	condition := readyCondition
	// Others judge by the lease, and write it in the Worker. What they have found of a gap may be written some time after it.
	var wary time.Time
	for doubted := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-draining:
			draining, condition = nil, drainingCondition
		case <-g.pressure.changed:
		case <-ticker.C:
			passed := time.Since(g.renewed)
			if doubted || passed < 0 || passed > g.options.LeaseDuration/2 {
				wary = time.Now().Add(g.options.LeaseDuration)
			}
			doubted = doubted || time.Now().Before(wary)
			if err := g.renew(ctx); err != nil {
				if errors.Is(err, ErrSuperseded) {
					return err
				}
				doubted = true
				klog.FromContext(ctx).Error(err, "The worker's sign of life failed; it is sent again")
				continue
			}
		}
		if err := g.refresh(ctx, doubted, condition, running()); errors.Is(err, ErrSuperseded) {
			return err
		} else if doubted = err != nil; doubted && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "The worker's status was not updated; it is sent again")
		}
	}
}

// refresh publishes what has changed. When in doubt it reads first what is stored, and registers again if that is nothing.
func (g *registration) refresh(ctx context.Context, doubt bool, ready metav1.Condition, running int32) error {
	for tries := 1; ; tries++ {
		if doubt {
			worker, err := g.readWorker(ctx)
			if apierrors.IsNotFound(err) {
				g.registered = false
				return g.register(ctx, ready)
			}
			if err != nil {
				return err
			}
			g.worker = worker
		}
		// Others write to the Worker too: whoever cordons it before it is stopped, for one.
		err := g.publish(ctx, ready, running)
		if !apierrors.IsConflict(err) || tries == 3 {
			return err
		}
		doubt = true
	}
}

var (
	readyCondition = metav1.Condition{
		Type: batch.WorkerReady, Status: metav1.ConditionTrue, Reason: "WorkerReady", Message: "The worker takes tasks.",
	}
	drainingCondition = metav1.Condition{
		Type: batch.WorkerReady, Status: metav1.ConditionFalse, Reason: "Draining", Message: "The worker ends its tasks and then stops.",
	}
	stoppedCondition = metav1.Condition{
		Type: batch.WorkerReady, Status: metav1.ConditionFalse, Reason: "Stopped", Message: "The worker has stopped.",
	}
	sufficientCondition = metav1.Condition{
		Type: batch.WorkerResourcePressure, Status: metav1.ConditionFalse, Reason: reasonSufficient,
		Message: "The worker has what it needs to start commands.",
	}
)
