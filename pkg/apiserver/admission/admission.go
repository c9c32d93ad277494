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

// Package admission configures the admission plugins of the server: which there are, the order in which they run, and
// what they require.
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

	"github.com/leat-dev/leat/pkg/apiserver/admission/creator"
	"github.com/leat-dev/leat/pkg/apiserver/admission/deniedworker"
	"github.com/leat-dev/leat/pkg/apiserver/admission/livenamespace"
	"github.com/leat-dev/leat/pkg/apiserver/admission/ownerreferences"
	"github.com/leat-dev/leat/pkg/apiserver/admission/queuelimit"
	"github.com/leat-dev/leat/pkg/apiserver/admission/workerrestriction"
)

// Order lists all plugins in the order in which they run. Mutating plugins run before validating ones, whatever their
// place. Creator is the last of them, so that nothing changes what it sets. Our own validating plugins come first: they
// are cheap and have no side effects. LiveNamespace comes after the webhooks, which may be slow, so that its decision
// is recent when the object is stored. ResourceQuota is last, so that it never charges what another plugin refuses.
var Order = []string{
	lifecycle.PluginName,
	mutatingpolicy.PluginName,
	mutatingwebhook.PluginName,
	creator.PluginName,
	workerrestriction.PluginName,
	ownerreferences.PluginName,
	queuelimit.PluginName,
	deniedworker.PluginName,
	validatingpolicy.PluginName,
	validatingwebhook.PluginName,
	livenamespace.PluginName,
	resourcequota.PluginName,
}

// hostOnly lists the plugins that need a host cluster. Webhooks and policies are not among them: a standalone server
// reads them from the manifests that the admission configuration file names.
var hostOnly = []string{
	lifecycle.PluginName,
	livenamespace.PluginName,
	resourcequota.PluginName,
}

// upstream lists the default plugins of the k8s.io/apiserver version that Order was reviewed for, in their order.
var upstream = []string{
	lifecycle.PluginName,
	mutatingpolicy.PluginName,
	mutatingwebhook.PluginName,
	validatingpolicy.PluginName,
	validatingwebhook.PluginName,
}

// RegisterAll registers the plugins that k8s.io/apiserver does not register by default.
func RegisterAll(plugins *admission.Plugins) {
	creator.Register(plugins)
	workerrestriction.Register(plugins)
	ownerreferences.Register(plugins)
	queuelimit.Register(plugins)
	deniedworker.Register(plugins)
	livenamespace.Register(plugins)
	resourcequota.Register(plugins)
}

// Configure sets all plugins and their order in options that options.NewAdmissionOptions returned. It returns an error
// if the default plugins of k8s.io/apiserver differ from those that Order was reviewed for. The server must not start
// then: a new plugin would lack its grants, and a removed one would leave a gap.
func Configure(o *options.AdmissionOptions) error {
	if err := checkUpstream(o); err != nil {
		return err
	}
	RegisterAll(o.Plugins)
	o.RecommendedPluginOrder = slices.Clone(Order)
	return nil
}

// ConfigureStandalone is Configure for a server without a host cluster. The plugins that need a host are off unless
// --enable-admission-plugins names them.
func ConfigureStandalone(o *options.AdmissionOptions) error {
	if err := Configure(o); err != nil {
		return err
	}
	o.DefaultOffPlugins = sets.New(hostOnly...)
	return nil
}

func checkUpstream(o *options.AdmissionOptions) error {
	const advice = "review the order in pkg/apiserver/admission and the grants in config/base/rbac"
	registered, known := sets.New(o.Plugins.Registered()...), sets.New(upstream...)
	if added := registered.Difference(known); added.Len() > 0 {
		return fmt.Errorf("unknown default admission plugins %s: %s", strings.Join(sets.List(added), ", "), advice)
	}
	if missing := known.Difference(registered); missing.Len() > 0 {
		return fmt.Errorf("missing default admission plugins %s: %s", strings.Join(sets.List(missing), ", "), advice)
	}
	if !slices.Equal(o.RecommendedPluginOrder, upstream) {
		return fmt.Errorf("default admission plugins run in the order %s, not %s: %s",
			strings.Join(o.RecommendedPluginOrder, ", "), strings.Join(upstream, ", "), advice)
	}
	if o.DefaultOffPlugins.Len() > 0 {
		return fmt.Errorf("default admission plugins %s are off by default, and none was before: %s",
			strings.Join(sets.List(o.DefaultOffPlugins), ", "), advice)
	}
	return nil
}
