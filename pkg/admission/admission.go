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

// Package admission is all that stands between a decoded request and the registries: which plugins there are, in which
// order they run, and what they need.
package admission

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	"k8s.io/apiserver/pkg/server/options"

	"github.com/leat-dev/leat/pkg/admission/deniedworker"
	"github.com/leat-dev/leat/pkg/admission/livenamespace"
	"github.com/leat-dev/leat/pkg/admission/ownerreferences"
	"github.com/leat-dev/leat/pkg/admission/queuelimit"
	"github.com/leat-dev/leat/pkg/admission/workerrestriction"
)

// Order is every plugin, in the order in which they run. Those that mutate run before all that validate, whatever their
// place. Of those that validate, our own come first, being cheap and free of side effects; LiveNamespace comes after webhooks,
// which may take long, so that what it knows is still true when the object is stored; and quota is last, so that what another
// plugin refuses is never charged.
var Order = []string{
	lifecycle.PluginName,
	mutatingpolicy.PluginName,
	mutatingwebhook.PluginName,
	workerrestriction.PluginName,
	ownerreferences.PluginName,
	queuelimit.PluginName,
	deniedworker.PluginName,
	validatingpolicy.PluginName,
	validatingwebhook.PluginName,
	livenamespace.PluginName,
	resourcequota.PluginName,
}

// hostOnly are the plugins that only read from, or write to, a Kubernetes host. Webhooks and policies are not among
// them: a standalone server reads theirs from the manifests that the admission configuration file names.
var hostOnly = []string{
	lifecycle.PluginName,
	livenamespace.PluginName,
	resourcequota.PluginName,
}

// upstream is what the library brings by default, in its order, as of the version that Order was made for.
var upstream = []string{
	lifecycle.PluginName,
	mutatingpolicy.PluginName,
	mutatingwebhook.PluginName,
	validatingpolicy.PluginName,
	validatingwebhook.PluginName,
}

// RegisterAll registers the plugins that the library does not bring by default.
func RegisterAll(plugins *admission.Plugins) {
	workerrestriction.Register(plugins)
	ownerreferences.Register(plugins)
	queuelimit.Register(plugins)
	deniedworker.Register(plugins)
	livenamespace.Register(plugins)
	resourcequota.Register(plugins)
}

// Configure gives options, as options.NewAdmissionOptions made them, all our plugins in our order. If the library's own
// default plugins are not those that Order was made for, the error names the ones that are new or gone: a plugin that
// comes unnoticed lacks its grants, and one that goes unnoticed leaves a hole, so the server must not start.
func Configure(o *options.AdmissionOptions) error {
	if err := checkUpstream(o); err != nil {
		return err
	}
	RegisterAll(o.Plugins)
	o.RecommendedPluginOrder = slices.Clone(Order)
	return nil
}

// ConfigureStandalone is Configure for a server without a Kubernetes host: plugins that have nothing to read there are off
// unless they are asked for by name.
func ConfigureStandalone(o *options.AdmissionOptions) error {
	if err := Configure(o); err != nil {
		return err
	}
	o.DefaultOffPlugins = sets.New(hostOnly...)
	return nil
}

func checkUpstream(o *options.AdmissionOptions) error {
	const want = "review pkg/admission: its order, and the grants of config/base/rbac"
	registered, known := sets.New(o.Plugins.Registered()...), sets.New(upstream...)
	if added := registered.Difference(known); added.Len() > 0 {
		return fmt.Errorf("unknown default admission plugins %s: %s", strings.Join(sets.List(added), ", "), want)
	}
	if missing := known.Difference(registered); missing.Len() > 0 {
		return fmt.Errorf("missing default admission plugins %s: %s", strings.Join(sets.List(missing), ", "), want)
	}
	if !slices.Equal(o.RecommendedPluginOrder, upstream) {
		return fmt.Errorf("default admission plugins run in the order %s, not %s: %s", strings.Join(o.RecommendedPluginOrder, ", "), strings.Join(upstream, ", "), want)
	}
	if o.DefaultOffPlugins.Len() > 0 {
		return fmt.Errorf("default admission plugins %s are off by default, none was: %s", strings.Join(sets.List(o.DefaultOffPlugins), ", "), want)
	}
	return nil
}
