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

// Package hostaccess checks that the server may access what it requires on its host cluster.
package hostaccess

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/healthz"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/leat-dev/leat/pkg/apiserver/admission"
)

const (
	// reviewInterval is the interval between reviews while all grants are present. It is long because each verb
	// costs a request, and open watches go on for minutes without their grant anyway.
	reviewInterval = time.Minute
	// retryInterval is the interval between reviews while a grant is missing or unknown.
	retryInterval = time.Second
	// reviewTimeout bounds one request to the host.
	reviewTimeout = 5 * time.Second
)

// The roles that hold the grants, as in config/base/rbac/apiserver.yaml.
const (
	ownRole       = "ClusterRole leat:apiserver"
	reviewRole    = "ClusterRole system:auth-delegator"
	configMapRole = "Role extension-apiserver-authentication-reader"
)

// grant is a permission that the server requires on its host, and the result of its reviews.
//
// A host that has just started may deny everything for a moment, so a grant that was present is missing only after two
// denials in a row:
//
//	state        | review allows all | review denies a verb | review fails
//	unknown      | present           | missing              | unknown
//	present      | present           | unconfirmed          | present
//	unconfirmed  | present           | missing              | unconfirmed
//	missing      | present           | missing              | missing
//
// The readiness check fails while the state is unknown or missing.
type grant struct {
	admission.Grant
	// namespace and name identify the object if the grant is for a single one. Both are empty otherwise.
	namespace, name string
	// role is the role that holds the grant.
	role    string
	reviews authorizationclient.SelfSubjectAccessReviewInterface

	mu sync.Mutex
	// reviewed is false in state unknown.
	reviewed bool
	// unconfirmed is true in state unconfirmed.
	unconfirmed bool
	// missing holds the denied verbs in state missing.
	missing []string
}

// requiredGrants returns the permissions that a server with these options requires on its host.
func requiredGrants(r *genericoptions.RecommendedOptions) ([]*grant, error) {
	var all []*grant
	add := func(kubeconfig, role, namespace, name string, grants ...admission.Grant) error {
		config, err := hostConfig(kubeconfig)
		if err != nil {
			return err
		}
		config.QPS = -1 // a review is one sequence of requests per interval
		client, err := authorizationclient.NewForConfig(config)
		if err != nil {
			return err
		}
		for _, g := range grants {
			all = append(all, &grant{Grant: g, namespace: namespace, name: name, role: role, reviews: client.SelfSubjectAccessReviews()})
		}
		return nil
	}
	resource := func(group, resource string, verbs ...string) admission.Grant {
		return admission.Grant{Resource: schema.GroupResource{Group: group, Resource: resource}, Verbs: verbs}
	}

	own := admission.Grants(r.Admission)
	if r.Features.EnablePriorityAndFairness {
		const group = "flowcontrol.apiserver.k8s.io"
		own = append(own, resource(group, "flowschemas", "list", "watch"), resource(group, "prioritylevelconfigurations", "list", "watch"))
	}
	if err := add(r.CoreAPI.CoreAPIKubeconfigPath, ownRole, "", "", own...); err != nil {
		return nil, err
	}
	authentication := r.Authentication
	if err := add(authentication.RemoteKubeConfigFile, reviewRole, "", "", resource("authentication.k8s.io", "tokenreviews", "create")); err != nil {
		return nil, err
	}
	if err := add(r.Authorization.RemoteKubeConfigFile, reviewRole, "", "", resource("authorization.k8s.io", "subjectaccessreviews", "create")); err != nil {
		return nil, err
	}
	if authentication.SkipInClusterLookup || authentication.ClientCert.ClientCA != "" && authentication.RequestHeader.ClientCAFile != "" {
		return all, nil
	}
	return all, add(authentication.RemoteKubeConfigFile, configMapRole, metav1.NamespaceSystem, authenticationConfigMap,
		resource("", "configmaps", "get", "list", "watch"))
}

// hostConfig returns the client config of a kubeconfig, or the in-cluster config if it is empty, as upstream's options
// do.
func hostConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
}

// AddGrantChecks adds readiness checks for the permissions that a server with these options requires on its host, and a
// hook that reviews them while the server runs.
//
// A server that lacks a grant would refuse valid requests or decide by stale data. There is a check per resource
// because probes and anonymous users see only the names of checks. The reason is in the log and at the path of the
// check.
func AddGrantChecks(config *genericapiserver.RecommendedConfig, options *genericoptions.RecommendedOptions) error {
	grants, err := requiredGrants(options)
	if err != nil {
		return err
	}
	for _, g := range grants {
		config.AddReadyzChecks(healthz.NamedGroupedCheck("grants/"+g.resource(), "grants", func(*http.Request) error { return g.check() }))
	}
	return config.AddPostStartHook("leat.dev/grants", func(hook genericapiserver.PostStartHookContext) error {
		go func() {
			for hook.Err() == nil {
				interval := reviewInterval
				if !reviewAll(hook, grants) {
					interval = retryInterval
				}
				select {
				case <-hook.Done():
				case <-time.After(interval):
				}
			}
		}()
		return nil
	})
}

// reviewAll reviews all grants and reports whether every one is present.
func reviewAll(ctx context.Context, grants []*grant) (complete bool) {
	complete = true
	for _, g := range grants {
		denied, err := g.review(ctx)
		if err != nil {
			// The host is probably down, and reviews of the other grants would time out as well.
			klog.FromContext(ctx).V(2).Info("Failed to review the grants of this server", "err", err)
			return false
		}
		complete = g.observe(ctx, denied) && complete
	}
	return complete
}

// review returns the verbs that the host denies.
func (g *grant) review(ctx context.Context) (denied []string, err error) {
	for _, verb := range g.Verbs {
		ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
		review, err := g.reviews.Create(ctx, &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: verb, Group: g.Resource.Group, Resource: g.Resource.Resource, Subresource: g.Subresource, Namespace: g.namespace, Name: g.name,
			},
		}}, metav1.CreateOptions{})
		cancel()
		if err != nil {
			return nil, err
		}
		if !review.Status.Allowed {
			denied = append(denied, verb)
		}
	}
	return denied, nil
}

// observe updates the state with the verbs that a review denied, and reports whether none is denied.
func (g *grant) observe(ctx context.Context, denied []string) (complete bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reviewed && len(g.missing) == 0 && len(denied) > 0 && !g.unconfirmed {
		g.unconfirmed = true
		return false
	}
	changed := !slices.Equal(g.missing, denied)
	g.reviewed, g.unconfirmed, g.missing = true, false, denied
	if changed && len(denied) > 0 {
		klog.FromContext(ctx).Error(g.missingError(), "The server lacks a grant of its host and is not ready")
	} else if changed {
		klog.FromContext(ctx).Info("The host grants what was missing", "resource", g.resource())
	}
	return len(denied) == 0
}

// check returns an error if the grant is unknown or missing.
func (g *grant) check() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.reviewed:
		return fmt.Errorf("the host has not answered yet whether it grants %s of %s", strings.Join(g.Verbs, ", "), g.resource())
	case len(g.missing) > 0:
		return g.missingError()
	}
	return nil
}

func (g *grant) missingError() error {
	return fmt.Errorf("the server's service account may not %s %s: apply %s and its binding, as in config/base/rbac/apiserver.yaml",
		strings.Join(g.missing, ", "), g.resource(), g.role)
}

// resource returns the name of the resource as kubectl writes it, followed by the object if the grant is for a single
// one.
func (g *grant) resource() string {
	resource := g.Resource.Resource
	if g.Subresource != "" {
		resource += "/" + g.Subresource
	}
	if g.Resource.Group != "" {
		resource += "." + g.Resource.Group
	}
	if g.name != "" {
		resource += "/" + g.namespace + "/" + g.name
	}
	return resource
}

const authenticationConfigMap = "extension-apiserver-authentication"

// ForbiddenAsNotFound turns a Forbidden response to the read of the authentication ConfigMap into NotFound. On start,
// upstream reads the ConfigMap once and exits if that is forbidden. If it is not found, upstream starts and loads it by
// an informer, as soon as the host grants that.
func ForbiddenAsNotFound(host http.RoundTripper) http.RoundTripper {
	return roundTripperFunc(func(request *http.Request) (*http.Response, error) {
		response, err := host.RoundTrip(request)
		if err != nil || response.StatusCode != http.StatusForbidden || request.Method != http.MethodGet ||
			!strings.HasSuffix(request.URL.Path, "/namespaces/"+metav1.NamespaceSystem+"/configmaps/"+authenticationConfigMap) {
			return response, err
		}
		response.Body.Close()
		response.Body, response.ContentLength, response.Header = http.NoBody, 0, http.Header{}
		response.StatusCode, response.Status = http.StatusNotFound, "404 Not Found"
		return response, nil
	})
}

type roundTripperFunc func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripperFunc) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }
