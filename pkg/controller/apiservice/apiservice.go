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

// Package apiservice registers leat-apiserver with the cluster.
//
// An APIService without a server blocks the deletion of every namespace of the cluster, so the manifests do not contain
// it: the controller creates it when the server is ready for the first time. After that it is kept even if the server
// fails, because a cluster that does not know the group answers 404, and its garbage collector deletes the dependents
// of the group's objects.
//
// The controller may reach a server that the cluster's API server does not reach, for example because of a firewall. So
// the APIService is on trial, marked by an annotation, until it is available for the first time. If it does not become
// available in time, it is deleted and created again later.
//
//	APIService  owner    condition                       action
//	any         missing                                  none: uninstalled; the garbage collector deletes the APIService
//	missing     exists   the server is not ready         none: wait
//	missing     exists   the last trial failed recently  none: wait
//	missing     exists   the server is ready             create, on trial
//	on trial    exists   available                       end the trial
//	on trial    exists   not available in time           delete
//	any         exists   fields differ                   restore the fields that this controller owns
package apiservice

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	applymetav1 "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorhelper "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	applyv1 "k8s.io/kube-aggregator/pkg/client/applyconfiguration/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	"k8s.io/utils/clock"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	directclient "github.com/leat-dev/leat/pkg/client/direct"
	"github.com/leat-dev/leat/pkg/controller/internal/reconcile"
)

const (
	// Name is the name of the APIService.
	Name = "v1alpha1." + batch.GroupName
	// Owner is the ClusterRole that permits the registration and owns the APIService. When it is deleted, the
	// permission ends and the garbage collector deletes the APIService, so every tool that deletes the manifests
	// deletes the registration, too.
	Owner = "leat:apiservice"
	// Secret is the name of the Secret, in the namespace of the Service, whose key ca.crt holds the certificate
	// authorities that the cluster trusts.
	Secret = "leat-apiserver-tls"

	caKey = "ca.crt"
	// groupPriority is lower than the 1000 of custom resources, so that "kubectl get tasks" keeps its meaning in a
	// cluster where another group has tasks.
	groupPriority   = 100
	versionPriority = 15

	fieldManager = "leat-controller-manager"
	// trialAnnotation marks the APIService until it is available for the first time.
	trialAnnotation = batch.GroupName + "/on-trial"
	// trialTimeout is how long a trial lasts. If the cluster does not reach the server, it blocks the deletion of
	// namespaces for that long. trialInterval is the time between the end of one trial and the next.
	trialTimeout, trialInterval = 2 * time.Minute, 5 * time.Minute
	// pendingInterval and registeredInterval are the times between two syncs before and after the registration.
	pendingInterval, registeredInterval = 2 * time.Second, 10 * time.Second
	// syncTimeout is the timeout of one sync.
	syncTimeout = 10 * time.Second
)

// Service is the Service of leat-apiserver.
type Service struct {
	Namespace, Name string
	Port            int32
}

// DefaultService is the Service that config/base installs.
var DefaultService = Service{Namespace: batch.SystemNamespace, Name: "leat-apiserver", Port: 443}

// ParseService returns the Service for a value NAMESPACE/NAME:PORT.
func ParseService(value string) (Service, error) {
	invalid := fmt.Errorf("%q: must be NAMESPACE/NAME:PORT, like %s", value, DefaultService)
	namespace, rest, found := strings.Cut(value, "/")
	name, portText, hasPort := strings.Cut(rest, ":")
	port, err := strconv.ParseInt(portText, 10, 32)
	if !found || !hasPort || err != nil || len(validation.IsValidPortNum(int(port))) > 0 ||
		len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1035Label(name)) > 0 {
		return Service{}, invalid
	}
	return Service{Namespace: namespace, Name: name, Port: int32(port)}, nil
}

// String returns the Service as NAMESPACE/NAME:PORT.
func (s Service) String() string { return fmt.Sprintf("%s/%s:%d", s.Namespace, s.Name, s.Port) }

// Address returns the URL of the server inside of the cluster.
func (s Service) Address() string {
	return (&directclient.Registration{ServerName: s.host(), Port: int(s.Port)}).Address()
}

// host returns the name in the server's certificate.
func (s Service) host() string { return s.Name + "." + s.Namespace + ".svc" }

// errNotAvailable is the result of a sync while the APIService is on trial.
var errNotAvailable = errors.New("the cluster has not reached leat-apiserver yet")

// Controller creates and maintains the APIService. Only one may run at a time.
type Controller struct {
	registration aggregator.Interface
	cluster      kubernetes.Interface
	service      Service
	// ready returns an error unless the server is ready.
	ready func(ctx context.Context, caBundle []byte) error
	clock clock.PassiveClock
	// trialSince is when this process first observed the trial, zero without one. nextTrial is when another one may
	// start, and lastTrial is the error of the last one.
	trialSince, nextTrial time.Time
	lastTrial             error
	// lastLogged is the message that was logged last, so that each state is logged once.
	lastLogged string
}

// New returns a Controller that registers the service. It checks the readiness of the server at address, like
// https://10.1.2.3:8443, or at the address of the Service if address is empty.
func New(config *rest.Config, service Service, address string) (*Controller, error) {
	registration, err := aggregator.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	cluster, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	if address == "" {
		address = (&url.URL{Scheme: "https", Host: net.JoinHostPort(service.host(), strconv.Itoa(int(service.Port)))}).String()
	}
	return &Controller{
		registration: registration, cluster: cluster, service: service, clock: clock.RealClock{},
		ready: func(ctx context.Context, caBundle []byte) error {
			return checkReadyz(ctx, address, service.host(), caBundle)
		},
	}, nil
}

// Run maintains the APIService until ctx is done. It never returns an error.
func (c *Controller) Run(ctx context.Context) error {
	reconcile.Periodically(ctx, 0, func(ctx context.Context) time.Duration {
		if c.logResult(ctx, c.sync(ctx)) {
			return registeredInterval
		}
		return pendingInterval
	})
	return nil
}

// logResult logs the result of a sync if it differs from the previous one, and reports whether the server is
// registered.
func (c *Controller) logResult(ctx context.Context, err error) bool {
	message := ""
	if err != nil {
		message = err.Error()
	}
	if message != c.lastLogged && ctx.Err() == nil {
		c.lastLogged = message
		if err != nil {
			klog.FromContext(ctx).Info("Waiting to register leat-apiserver", "apiService", Name, "reason", message)
		} else {
			klog.FromContext(ctx).Info("Registered leat-apiserver", "apiService", Name, "service", c.service)
		}
	}
	return err == nil
}

// sync takes one action of the table in the package documentation. It returns nil if the server is registered.
func (c *Controller) sync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	owner, err := c.owner(ctx)
	if err != nil {
		return err
	}
	caBundle, err := c.caBundle(ctx)
	if err != nil {
		return err
	}
	existing, err := c.registration.ApiregistrationV1().APIServices().Get(ctx, Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		c.trialSince = time.Time{}
		if c.clock.Now().Before(c.nextTrial) {
			return c.lastTrial
		}
		if err := c.ready(ctx, caBundle); err != nil {
			return fmt.Errorf("leat-apiserver is not ready: %w", err)
		}
		if err := c.apply(ctx, owner, caBundle, true); err != nil {
			return err
		}
		return errNotAvailable
	case err != nil:
		return fmt.Errorf("getting APIService %s: %w", Name, err)
	case existing.DeletionTimestamp != nil:
		return fmt.Errorf("APIService %s is being deleted", Name)
	}
	if _, onTrial := existing.Annotations[trialAnnotation]; onTrial {
		return c.syncTrial(ctx, existing, owner, caBundle)
	}
	if c.matches(existing, owner, caBundle) {
		return nil
	}
	return c.apply(ctx, owner, caBundle, false)
}

// syncTrial ends the trial of an APIService if it is available or trialTimeout has passed.
func (c *Controller) syncTrial(ctx context.Context, existing *apiregistrationv1.APIService, owner *rbacv1.ClusterRole, caBundle []byte) error {
	available := aggregatorhelper.GetAPIServiceConditionByType(existing, apiregistrationv1.Available)
	if available != nil && available.Status == apiregistrationv1.ConditionTrue {
		return c.apply(ctx, owner, caBundle, false)
	}
	if c.trialSince.IsZero() {
		c.trialSince = c.clock.Now()
	}
	if c.clock.Since(c.trialSince) < trialTimeout {
		if !c.matches(existing, owner, caBundle) {
			if err := c.apply(ctx, owner, caBundle, true); err != nil {
				return err
			}
		}
		return errNotAvailable
	}
	reason := "the APIService has no condition Available"
	if available != nil {
		reason = available.Message
	}
	c.nextTrial = c.clock.Now().Add(trialInterval)
	c.lastTrial = fmt.Errorf("the cluster did not reach Service %s within %s, so the API is not registered until %s; allow its API server "+
		"to connect to the pods of leat-apiserver: %s", c.service, trialTimeout, c.nextTrial.Format(time.TimeOnly), reason)
	return errors.Join(c.lastTrial, c.registration.ApiregistrationV1().APIServices().Delete(ctx, Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &existing.UID, ResourceVersion: &existing.ResourceVersion},
	}))
}

// owner returns the ClusterRole that owns the APIService. It returns an error if the role does not exist or is being
// deleted.
func (c *Controller) owner(ctx context.Context) (*rbacv1.ClusterRole, error) {
	owner, err := c.cluster.RbacV1().ClusterRoles().Get(ctx, Owner, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("getting ClusterRole %s, which owns the APIService: %w", Owner, err)
	}
	if owner.DeletionTimestamp != nil {
		return nil, fmt.Errorf("ClusterRole %s, which owns the APIService, is being deleted", Owner)
	}
	return owner, nil
}

// caBundle returns the certificate authorities of the server, in PEM.
func (c *Controller) caBundle(ctx context.Context) ([]byte, error) {
	secret, err := c.cluster.CoreV1().Secrets(c.service.Namespace).Get(ctx, Secret, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("getting Secret %s/%s, which holds the certificate authority of leat-apiserver: %w", c.service.Namespace, Secret, err)
	}
	caBundle := secret.Data[caKey]
	if !x509.NewCertPool().AppendCertsFromPEM(caBundle) {
		return nil, fmt.Errorf("the key %s of Secret %s/%s holds no certificate", caKey, c.service.Namespace, Secret)
	}
	return caBundle, nil
}

// matches reports whether the fields that this controller owns have the right values.
func (c *Controller) matches(existing *apiregistrationv1.APIService, owner *rbacv1.ClusterRole, caBundle []byte) bool {
	port := c.service.Port
	return equality.Semantic.DeepEqual(existing.Spec, apiregistrationv1.APIServiceSpec{
		Group: batch.SchemeGroupVersion.Group, Version: batch.SchemeGroupVersion.Version,
		GroupPriorityMinimum: groupPriority, VersionPriority: versionPriority,
		Service:  &apiregistrationv1.ServiceReference{Namespace: c.service.Namespace, Name: c.service.Name, Port: &port},
		CABundle: caBundle,
	}) && slices.ContainsFunc(existing.OwnerReferences, func(reference metav1.OwnerReference) bool { return reference.UID == owner.UID })
}

// apply writes the fields that this controller owns. It does not change others, like labels and annotations of other
// tools.
func (c *Controller) apply(ctx context.Context, owner *rbacv1.ClusterRole, caBundle []byte, onTrial bool) error {
	configuration := applyv1.APIService(Name).
		WithLabels(map[string]string{"app.kubernetes.io/part-of": "leat"}).
		WithOwnerReferences(applymetav1.OwnerReference().
			WithAPIVersion(rbacv1.SchemeGroupVersion.String()).WithKind("ClusterRole").WithName(owner.Name).WithUID(owner.UID)).
		WithSpec(applyv1.APIServiceSpec().
			WithGroup(batch.SchemeGroupVersion.Group).WithVersion(batch.SchemeGroupVersion.Version).
			WithGroupPriorityMinimum(groupPriority).WithVersionPriority(versionPriority).
			WithService(applyv1.ServiceReference().
				WithNamespace(c.service.Namespace).WithName(c.service.Name).WithPort(c.service.Port)).
			WithCABundle(caBundle...))
	if onTrial {
		configuration.WithAnnotations(map[string]string{trialAnnotation: ""})
	}
	_, err := c.registration.ApiregistrationV1().APIServices().Apply(ctx, configuration, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if err != nil {
		return fmt.Errorf("applying APIService %s: %w", Name, err)
	}
	return nil
}

// checkReadyz returns an error unless the server at address has a certificate for the name that caBundle verifies, and
// is ready.
func checkReadyz(ctx context.Context, address, name string, caBundle []byte) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(caBundle)
	// Without keep-alives, each request may reach another replica of the Service.
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true,
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(address, "/")+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1024))
	if response.StatusCode != http.StatusOK {
		return errors.Join(fmt.Errorf("%s answered %s: %s", request.URL, response.Status, body), err)
	}
	return nil
}
