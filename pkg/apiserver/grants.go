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

package apiserver

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
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/leat-dev/leat/pkg/admission"
)

const (
	// reviewInterval is how often the host is asked what it grants, and urgentInterval how often while something is missing or not known.
	// The one is long, because watches that are open go on for minutes without their grant, and a question for each verb adds up.
	reviewInterval, urgentInterval = time.Minute, time.Second
	// reviewTimeout bounds one question.
	reviewTimeout = 5 * time.Second
)

// The roles that grant, by the names in config/base/rbac/apiserver.yaml.
const (
	ownRole       = "ClusterRole leat:apiserver"
	reviewRole    = "ClusterRole system:auth-delegator"
	configMapRole = "Role extension-apiserver-authentication-reader"
)

// grant is something that the host must allow the server, and whether it does.
type grant struct {
	admission.Grant
	// namespace and name are of the one object that is meant, empty if it is all.
	namespace, name string
	// role is the one that is to be applied if it is missing.
	role    string
	reviews authorizationclient.SelfSubjectAccessReviewInterface

	mu sync.Mutex
	// known tells that the host has answered, doubted that the last answer was the first to deny what others allowed.
	known, doubted bool
	// missing are the verbs that it denies.
	missing []string
}

// grants gives what the server needs of its host, as the options have it.
func (o *Options) grants() ([]*grant, error) {
	r := o.Recommended
	var all []*grant
	add := func(kubeconfig, role, namespace, name string, grants ...admission.Grant) error {
		config, err := hostConfig(kubeconfig)
		if err != nil {
			return err
		}
		config.QPS = -1 // a question for each verb, one after the other, and then a pause
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

// hostConfig is the config of a kubeconfig, or that of the pod if there is none, as upstream's options have it.
func hostConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
}

// reviewGrants has the host asked for them as long as the server runs. The server is not ready without any of them: it would refuse
// what it should let through, or judge by what was true once. There is a check for each resource, because the name of a check is all
// that a probe and whoever is not known are told; the reason is in the log and at the check's own path.
func reviewGrants(config *genericapiserver.RecommendedConfig, grants []*grant) error {
	for _, g := range grants {
		config.AddReadyzChecks(healthz.NamedGroupedCheck("grants/"+g.resource(), "grants", func(*http.Request) error { return g.err() }))
	}
	return config.AddPostStartHook("leat.dev/grants", func(hook genericapiserver.PostStartHookContext) error {
		go func() {
			for hook.Err() == nil {
				interval := reviewInterval
				if !review(hook, grants) {
					interval = urgentInterval
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

// review asks for all of them and tells whether each is known to be there.
func review(ctx context.Context, grants []*grant) (complete bool) {
	complete = true
	for _, g := range grants {
		missing, err := g.ask(ctx)
		if err != nil {
			// As likely as not the host is away, and the other questions would wait as long.
			klog.FromContext(ctx).V(2).Info("The host does not say what it grants to this server", "err", err)
			return false
		}
		complete = g.learn(ctx, missing) && complete
	}
	return complete
}

// ask gives the verbs that the host denies.
func (g *grant) ask(ctx context.Context) (missing []string, err error) {
	for _, verb := range g.Verbs {
		ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
		answer, err := g.reviews.Create(ctx, &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: verb, Group: g.Resource.Group, Resource: g.Resource.Resource, Subresource: g.Subresource, Namespace: g.namespace, Name: g.name,
			},
		}}, metav1.CreateOptions{})
		cancel()
		if err != nil {
			return nil, err
		}
		if !answer.Status.Allowed {
			missing = append(missing, verb)
		}
	}
	return missing, nil
}

// learn takes an answer in, and tells whether nothing is missing. A host that has just started may deny everything for a moment: what
// was there once is missing only if that is said twice.
func (g *grant) learn(ctx context.Context, missing []string) (complete bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.known && len(g.missing) == 0 && len(missing) > 0 && !g.doubted {
		g.doubted = true
		return false
	}
	changed := !slices.Equal(g.missing, missing)
	g.known, g.doubted, g.missing = true, false, missing
	if changed && len(missing) > 0 {
		klog.FromContext(ctx).Error(g.lacking(), "The server is not ready until its host grants what it needs")
	} else if changed {
		klog.FromContext(ctx).Info("The host grants what was missing", "resource", g.resource())
	}
	return len(missing) == 0
}

// err says what is missing.
func (g *grant) err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.known:
		return fmt.Errorf("the host has not said yet whether it grants %s of %s", strings.Join(g.Verbs, ", "), g.resource())
	case len(g.missing) > 0:
		return g.lacking()
	}
	return nil
}

func (g *grant) lacking() error {
	return fmt.Errorf("the server's service account may not %s %s: apply %s and its binding, as in config/base/rbac/apiserver.yaml",
		strings.Join(g.missing, ", "), g.resource(), g.role)
}

// resource names what is meant as kubectl does.
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

// loadLater makes a server start that may not read the ConfigMap of authentication yet: upstream's informers load it once that is
// granted, without which it is asked for once and the program ends. To the one that asks it counts as not found.
func loadLater(host http.RoundTripper) http.RoundTripper {
	return roundTripper(func(request *http.Request) (*http.Response, error) {
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

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }
