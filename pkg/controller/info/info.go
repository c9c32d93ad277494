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

// Package info publishes what clients need to know to start workers in pods: the ConfigMap leat-info in the system
// namespace has the address of leat-apiserver, the certificate authorities and the image. All authenticated users can
// read it, so it has no secrets.
package info

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/apiservice"
	"github.com/leat-dev/leat/pkg/controller/certificates"
	"github.com/leat-dev/leat/pkg/controller/internal/reconcile"
	"github.com/leat-dev/leat/pkg/pool"
)

const (
	// container is the name of the container of this program in its pod. Its image has leat-worker too.
	container    = "leat-controller-manager"
	caKey        = "ca.crt"
	fieldManager = "leat-controller-manager"
	// pendingInterval and publishedInterval are the times between two syncs while the ConfigMap cannot be written, and
	// after that. The authorities change once in years and the image with each upgrade, so the controller polls: a watch
	// of single objects would cost a connection each.
	pendingInterval, publishedInterval = 5 * time.Second, 30 * time.Second
	// syncTimeout is the timeout of one sync.
	syncTimeout = 10 * time.Second
)

// Controller maintains the ConfigMap leat-info. Only one may run at a time.
type Controller struct {
	cluster kubernetes.Interface
	// server is the address of leat-apiserver inside of the cluster.
	server string
	// podNamespace and podName are the pod of this process.
	podNamespace, podName string
	// lastLogged is the message that was logged last, so that each state is logged once.
	lastLogged string
}

// New returns a Controller that publishes the address of the service. podNamespace and podName name the pod of this
// process, whose image it publishes.
func New(cluster kubernetes.Interface, service apiservice.Service, podNamespace, podName string) *Controller {
	return &Controller{cluster: cluster, server: service.Address(), podNamespace: podNamespace, podName: podName}
}

// Run maintains the ConfigMap until ctx is done. It never returns an error.
func (c *Controller) Run(ctx context.Context) error {
	reconcile.Periodically(ctx, 0, func(ctx context.Context) time.Duration {
		if c.logResult(ctx, c.sync(ctx)) {
			return publishedInterval
		}
		return pendingInterval
	})
	return nil
}

// logResult logs the result of a sync if it differs from the previous one, and reports whether the sync succeeded.
func (c *Controller) logResult(ctx context.Context, err error) bool {
	message := ""
	if err != nil {
		message = err.Error()
	}
	if message != c.lastLogged && ctx.Err() == nil {
		c.lastLogged = message
		if err != nil {
			klog.FromContext(ctx).Info("Waiting to publish what pools of workers need", "configMap", pool.InfoConfigMap, "reason", message)
		} else {
			klog.FromContext(ctx).Info("Published what pools of workers need", "configMap", pool.InfoConfigMap)
		}
	}
	return err == nil
}

// sync writes the ConfigMap if its data differ from the cluster's. It writes nothing unless all data are known.
func (c *Controller) sync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	ca, errCA := c.authority(ctx, certificates.ServerSecret)
	clientCA, errClientCA := c.authority(ctx, certificates.WorkerClientSecret)
	image, errImage := c.image(ctx)
	if err := errors.Join(errCA, errClientCA, errImage); err != nil {
		return err
	}
	data := map[string]string{pool.InfoServer: c.server, pool.InfoCA: ca, pool.InfoClientCA: clientCA, pool.InfoImage: image}
	configMaps := c.cluster.CoreV1().ConfigMaps(batch.SystemNamespace)
	existing, err := configMaps.Get(ctx, pool.InfoConfigMap, metav1.GetOptions{})
	switch {
	case err == nil && maps.Equal(existing.Data, data):
		return nil
	case err != nil && !apierrors.IsNotFound(err):
		return fmt.Errorf("getting ConfigMap %s/%s: %w", batch.SystemNamespace, pool.InfoConfigMap, err)
	}
	_, err = configMaps.Apply(ctx, applycorev1.ConfigMap(pool.InfoConfigMap, batch.SystemNamespace).
		WithLabels(map[string]string{"app.kubernetes.io/part-of": "leat"}).WithData(data),
		metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if err != nil {
		return fmt.Errorf("applying ConfigMap %s/%s: %w", batch.SystemNamespace, pool.InfoConfigMap, err)
	}
	return nil
}

// authority returns the certificate authorities in a Secret, in PEM. They outlive the certificates: a renewed
// certificate changes no pool.
func (c *Controller) authority(ctx context.Context, name string) (string, error) {
	secret, err := c.cluster.CoreV1().Secrets(batch.SystemNamespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("getting Secret %s/%s: %w", batch.SystemNamespace, name, err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(secret.Data[caKey]) {
		return "", fmt.Errorf("the key %s of Secret %s/%s holds no certificate", caKey, batch.SystemNamespace, name)
	}
	return string(secret.Data[caKey]), nil
}

// image returns the image of this process. The pod has it as the nodes pull it, with what admission has changed.
func (c *Controller) image(ctx context.Context) (string, error) {
	if c.podName == "" || c.podNamespace == "" {
		return "", errors.New("POD_NAME and POD_NAMESPACE are not set: they must name the pod of this process")
	}
	pod, err := c.cluster.CoreV1().Pods(c.podNamespace).Get(ctx, c.podName, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("getting Pod %s/%s, the one of this process: %w", c.podNamespace, c.podName, err)
	}
	i := slices.IndexFunc(pod.Spec.Containers, func(one corev1.Container) bool { return one.Name == container })
	if i < 0 {
		return "", fmt.Errorf("pod %s/%s has no container %s", c.podNamespace, c.podName, container)
	}
	return pod.Spec.Containers[i].Image, nil
}
