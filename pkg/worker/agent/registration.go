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

package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
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
	"github.com/leat-dev/leat/pkg/client/request"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/pkg/worker/pressure"
)

// ErrSuperseded is returned by Run when another process has registered under the worker's name. Run has killed its
// commands; the successor evicts their tasks.
var ErrSuperseded = errors.New("another process has registered under the name of this worker; names must be unique in a namespace")

// registration keeps the Worker and the WorkerLease of one incarnation up to date. It is not safe for concurrent use.
type registration struct {
	client      versioned.Interface
	options     Options
	incarnation string
	info        batch.WorkerInfo

	worker  *batch.Worker      // as last stored
	lease   *batch.WorkerLease // as last stored; nil if it must be read again
	renewed time.Time          // of the lease
	// registered is true once the incarnation is published. From then on a different one is a successor.
	registered bool
	// pressure decides how many tasks are allocatable.
	pressure *pressure.Tracker
	// predecessor is the incarnation that the Worker had before, if that one was leaving; otherwise it is empty.
	predecessor string
}

func newRegistration(client versioned.Interface, options Options, incarnation string) *registration {
	hostname, _ := os.Hostname()
	bootID, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	tasks := options.Capacity[batch.ResourceTasks]
	return &registration{
		client: client, options: options, incarnation: incarnation,
		pressure: pressure.NewTracker(tasks.Value(), options.BackoffBase, options.BackoffCap),
		info: batch.WorkerInfo{
			Version:  options.Version,
			OS:       runtime.GOOS,
			Arch:     runtime.GOARCH,
			Hostname: hostname,
			BootID:   strings.TrimSpace(string(bootID)),
			Features: []batch.WorkerFeature{batch.WorkerFeatureChunks},
		},
	}
}

// register creates the Worker and its lease, or takes over those of an earlier process, and publishes the incarnation.
func (g *registration) register(ctx context.Context, ready metav1.Condition) error {
	workers := g.client.BatchV1alpha1().Workers(g.options.Namespace)
	worker, err := request.Do(ctx, func(ctx context.Context) (*batch.Worker, error) {
		return workers.Create(ctx, &batch.Worker{
			ObjectMeta: metav1.ObjectMeta{Name: g.options.Name, Namespace: g.options.Namespace, Labels: g.options.Labels},
			Spec:       batch.WorkerSpec{Taints: g.options.Taints},
		}, metav1.CreateOptions{})
	})
	if apierrors.IsAlreadyExists(err) {
		worker, err = g.readWorker(ctx)
		if err == nil {
			if isLeaving(worker) {
				g.predecessor = worker.Status.Incarnation
			}
			labels := maps.Clone(worker.Labels)
			if labels == nil {
				labels = map[string]string{}
			}
			maps.Copy(labels, g.options.Labels)
			if !maps.Equal(labels, worker.Labels) {
				worker.Labels = labels
				worker, err = request.Do(ctx, func(ctx context.Context) (*batch.Worker, error) {
					return workers.Update(ctx, worker, metav1.UpdateOptions{})
				})
			}
		}
	}
	if err != nil {
		return fmt.Errorf("registering the worker: %w", err)
	}
	g.worker = worker
	// Renew the lease first: the lifecycle controller would at once mark a worker as unknown that is ready on an
	// expired lease.
	if err := g.renewLease(ctx); err != nil {
		return err
	}
	return g.updateStatus(ctx, ready, 0)
}

// renewLease renews the lease, and creates it if necessary. It returns ErrSuperseded if another process holds it.
func (g *registration) renewLease(ctx context.Context) error {
	leases := g.client.BatchV1alpha1().WorkerLeases(g.options.Namespace)
	if g.lease == nil {
		lease, err := request.Do(ctx, func(ctx context.Context) (*batch.WorkerLease, error) {
			return leases.Get(ctx, g.options.Name, metav1.GetOptions{})
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
	stored, err := request.Do(ctx, func(ctx context.Context) (*batch.WorkerLease, error) {
		if next.UID == "" {
			return leases.Create(ctx, next, metav1.CreateOptions{})
		}
		return leases.Update(ctx, next, metav1.UpdateOptions{})
	})
	if err != nil {
		g.lease = nil // somebody may have changed or deleted it: read it again
		return fmt.Errorf("renewing the lease: %w", err)
	}
	// Without the monotonic clock, which stands still while a machine sleeps.
	g.lease, g.renewed = stored, now.Round(0)
	return nil
}

// updateStatus writes the Worker's status if it has changed.
func (g *registration) updateStatus(ctx context.Context, ready metav1.Condition, running int32) error {
	next := g.worker.DeepCopy()
	limit, condition := g.pressure.State()
	if condition == nil && meta.FindStatusCondition(next.Status.Conditions, batch.WorkerResourcePressure) != nil {
		condition = &sufficientCondition
	}
	next.Status.Capacity, next.Status.Allocatable = g.options.Capacity, maps.Clone(g.options.Capacity)
	next.Status.Allocatable[batch.ResourceTasks] = *resource.NewQuantity(limit, resource.DecimalSI)
	next.Status.Incarnation, next.Status.RunningTasks, next.Status.WorkerInfo = g.incarnation, running, g.info
	next.Status.Endpoint = g.options.Endpoint
	next.Status.Unarchived = g.options.Archive.Unarchived()
	next.Status.PrefetchLimit = 0
	if tasks := g.options.Capacity[batch.ResourceTasks]; limit == tasks.Value() {
		// A worker that is short of resources keeps no tasks from others.
		next.Status.PrefetchLimit = int32(min(limit*int64(g.options.Prefetch), math.MaxInt32))
	}
	meta.SetStatusCondition(&next.Status.Conditions, ready)
	if condition != nil {
		meta.SetStatusCondition(&next.Status.Conditions, *condition)
	}
	if equality.Semantic.DeepEqual(next.Status, g.worker.Status) {
		return nil
	}
	stored, err := request.Do(ctx, func(ctx context.Context) (*batch.Worker, error) {
		return g.client.BatchV1alpha1().Workers(g.options.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
	})
	if err != nil {
		return fmt.Errorf("updating the worker's status: %w", err)
	}
	g.worker, g.registered = stored, true
	return nil
}

// readWorker reads the Worker. It returns ErrSuperseded if another process has registered it.
func (g *registration) readWorker(ctx context.Context) (*batch.Worker, error) {
	worker, err := request.Do(ctx, func(ctx context.Context) (*batch.Worker, error) {
		return g.client.BatchV1alpha1().Workers(g.options.Namespace).Get(ctx, g.options.Name, metav1.GetOptions{})
	})
	if err == nil && g.registered && worker.Status.Incarnation != g.incarnation {
		return nil, ErrSuperseded
	}
	return worker, err
}

// reasonStopUnknown is the reason of Ready=Unknown of a worker whose lease expired while it was stopping.
const reasonStopUnknown = "WorkerStopUnknown"

// isLeaving reports whether the worker is stopping or cordoned. If its commands end then, none of them has crashed
// it. The lifecycle controller has the same rule for lost workers.
func isLeaving(worker *batch.Worker) bool {
	ready := meta.FindStatusCondition(worker.Status.Conditions, batch.WorkerReady)
	return worker.Spec.Unschedulable || ready != nil &&
		slices.Contains([]string{drainingCondition.Reason, stoppedCondition.Reason, reasonStopUnknown}, ready.Reason)
}

// run renews the lease at each heartbeat and publishes changes until ctx is done. Pressure, draining and further sets
// with output that is not in the archive are published at once; from draining on, the worker is not ready. It returns
// ErrSuperseded if another process takes over.
func (g *registration) run(ctx context.Context, draining <-chan struct{}, running func() int32) error {
	ticker := time.NewTicker(g.options.HeartbeatInterval)
	defer ticker.Stop()
	condition := readyCondition
	// unconfirmed is true while the stored Worker may differ from g.worker. The lifecycle controller judges by the
	// lease and writes to the Worker, possibly some time after a gap between two renewals: until unconfirmedUntil it
	// must be read.
	var unconfirmedUntil time.Time
	for unconfirmed := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-draining:
			draining, condition = nil, drainingCondition
		case <-g.pressure.Changed:
		case <-g.options.Archive.Changed():
		case <-ticker.C:
			passed := time.Since(g.renewed)
			if unconfirmed || passed < 0 || passed > g.options.LeaseDuration/2 {
				unconfirmedUntil = time.Now().Add(g.options.LeaseDuration)
			}
			unconfirmed = unconfirmed || time.Now().Before(unconfirmedUntil)
			if err := g.renewLease(ctx); err != nil {
				if errors.Is(err, ErrSuperseded) {
					return err
				}
				unconfirmed = true
				klog.FromContext(ctx).Error(err, "Failed to renew the lease; retrying at the next heartbeat")
				continue
			}
		}
		if err := g.sync(ctx, unconfirmed, condition, running()); errors.Is(err, ErrSuperseded) {
			return err
		} else if unconfirmed = err != nil; unconfirmed && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Failed to update the worker's status; retrying at the next heartbeat")
		}
	}
}

// sync writes the Worker's status if it has changed. If unconfirmed is true it reads the Worker first, and registers
// again if that was deleted.
func (g *registration) sync(ctx context.Context, unconfirmed bool, ready metav1.Condition, running int32) error {
	for tries := 1; ; tries++ {
		if unconfirmed {
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
		// Others write to the Worker too, for example a person who cordons it before it is stopped.
		err := g.updateStatus(ctx, ready, running)
		if !apierrors.IsConflict(err) || tries == 3 {
			return err
		}
		unconfirmed = true
	}
}

var (
	readyCondition = metav1.Condition{
		Type: batch.WorkerReady, Status: metav1.ConditionTrue, Reason: "WorkerReady", Message: "The worker takes tasks.",
	}
	drainingCondition = metav1.Condition{
		Type: batch.WorkerReady, Status: metav1.ConditionFalse, Reason: "Draining",
		Message: "The worker ends its tasks and then stops.",
	}
	stoppedCondition = metav1.Condition{
		Type: batch.WorkerReady, Status: metav1.ConditionFalse, Reason: "Stopped", Message: "The worker has stopped.",
	}
	sufficientCondition = metav1.Condition{
		Type: batch.WorkerResourcePressure, Status: metav1.ConditionFalse, Reason: pressure.ReasonSufficient,
		Message: "The worker has what it needs to start commands.",
	}
)
