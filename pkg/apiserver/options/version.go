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

package options

import (
	"regexp"
	"runtime/debug"
	"strings"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/version"
	apimachineryversion "k8s.io/apimachinery/pkg/version"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/component-base/featuregate"
	logsapi "k8s.io/component-base/logs/api/v1"
	baseversion "k8s.io/component-base/version"
)

const (
	// ComponentName is the name of the server in --emulated-version and --feature-gates.
	ComponentName = "leat"
	// minorVersion is the version of Leat, and the highest that --emulated-version accepts.
	minorVersion = "0.1"
	// firstVersion is the lowest version that --emulated-version accepts.
	firstVersion = "0.1"
)

func init() {
	utilruntime.Must(logsapi.AddFeatureGates(utilfeature.DefaultMutableFeatureGate))
}

// newVersions returns a registry with the versions and feature gates of Leat and of the Kubernetes libraries that it is
// built with. Emulating an earlier Leat also emulates the Kubernetes that it was built with.
func newVersions() basecompatibility.ComponentGlobalsRegistry {
	registry := basecompatibility.NewComponentGlobalsRegistry()
	utilruntime.Must(registry.Register(ComponentName, basecompatibility.NewEffectiveVersionFromString(minorVersion, firstVersion, firstVersion),
		featuregate.NewVersionedFeatureGate(version.MustParse(minorVersion))))
	utilruntime.Must(registry.Register(basecompatibility.DefaultKubeComponent,
		basecompatibility.NewEffectiveVersionFromString(baseversion.DefaultKubeBinaryVersion, "", ""), utilfeature.DefaultMutableFeatureGate))
	utilruntime.Must(registry.SetVersionMapping(ComponentName, basecompatibility.DefaultKubeComponent, kubernetesVersion))
	return registry
}

// kubernetesVersion returns the version of the Kubernetes libraries that a version of Leat was built with. It returns
// the newest for unknown versions, which Validate refuses.
func kubernetesVersion(leat *version.Version) *version.Version {
	kubernetes, newest := version.MustParse(baseversion.DefaultKubeBinaryVersion), version.MustParse(minorVersion)
	if leat.GreaterThan(newest) || leat.LessThan(version.MustParse(firstVersion)) {
		return kubernetes
	}
	return kubernetes.OffsetMinor(int(leat.Minor()) - int(newest.Minor()))
}

// standaloneVersion is the version of a server without a host. Clients take /version for the version of Kubernetes:
// they warn if it differs much from their own, and choose features by it. So it is the version of the Kubernetes
// libraries, with the version of Leat as build metadata.
type standaloneVersion struct {
	basecompatibility.EffectiveVersion
}

// Info implements basecompatibility.EffectiveVersion. It returns the response of /version.
func (v standaloneVersion) Info() *apimachineryversion.Info {
	info := v.EffectiveVersion.Info()
	if info == nil {
		return nil
	}
	kubernetes := version.MustParse(baseversion.DefaultKubeBinaryVersion)
	info.Major, info.Minor = version.Itoa(kubernetes.Major()), version.Itoa(kubernetes.Minor())
	info.GitVersion = "v" + libraryVersion(kubernetes) + "+leat." + strings.Trim(notBuildMetadata.ReplaceAllString(info.GitVersion, "-"), "-")
	return info
}

// notBuildMetadata matches characters that the build metadata of a semantic version may not contain.
var notBuildMetadata = regexp.MustCompile(`[^0-9A-Za-z.]+`)

// libraryVersion returns the version of Kubernetes whose libraries the program is built with. It returns patch version
// 0 if the program holds no build information.
func libraryVersion(minor *version.Version) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if patch, found := strings.CutPrefix(module.Version, "v0."); found && module.Path == "k8s.io/apiserver" {
				return "1." + patch
			}
		}
	}
	return minor.WithPatch(0).String()
}
