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
	// ComponentName names the server in --emulated-version and --feature-gates.
	ComponentName = "leat"
	// minorVersion is the version of Leat's API as a whole, which --emulated-version can turn back.
	minorVersion = "0.1"
	// firstVersion is the earliest that there has been.
	firstVersion = "0.1"
)

func init() {
	utilruntime.Must(logsapi.AddFeatureGates(utilfeature.DefaultMutableFeatureGate))
}

// newVersions gives the versions and feature gates of Leat and of the Kubernetes libraries it is built from. To emulate an
// earlier Leat is to emulate the Kubernetes that it was built from.
func newVersions() basecompatibility.ComponentGlobalsRegistry {
	registry := basecompatibility.NewComponentGlobalsRegistry()
	utilruntime.Must(registry.Register(ComponentName, basecompatibility.NewEffectiveVersionFromString(minorVersion, firstVersion, firstVersion),
		featuregate.NewVersionedFeatureGate(version.MustParse(minorVersion))))
	utilruntime.Must(registry.Register(basecompatibility.DefaultKubeComponent,
		basecompatibility.NewEffectiveVersionFromString(baseversion.DefaultKubeBinaryVersion, "", ""), utilfeature.DefaultMutableFeatureGate))
	utilruntime.Must(registry.SetVersionMapping(ComponentName, basecompatibility.DefaultKubeComponent, kubernetesVersion))
	return registry
}

// kubernetesVersion gives the version of the Kubernetes libraries that a version of Leat was built from. For a version that there
// has not been, which Validate refuses, it gives the newest.
func kubernetesVersion(leat *version.Version) *version.Version {
	kubernetes, newest := version.MustParse(baseversion.DefaultKubeBinaryVersion), version.MustParse(minorVersion)
	if leat.GreaterThan(newest) || leat.LessThan(version.MustParse(firstVersion)) {
		return kubernetes
	}
	return kubernetes.OffsetMinor(int(leat.Minor()) - int(newest.Minor()))
}

// standaloneVersion is the version of a server without a host. Clients take what /version has for that of Kubernetes, warn of one
// that is far from their own, and choose how to speak by it: it is the version of the Kubernetes libraries, with that of Leat as
// the build.
type standaloneVersion struct {
	basecompatibility.EffectiveVersion
}

// Info returns what /version answers.
func (v standaloneVersion) Info() *apimachineryversion.Info {
	info := v.EffectiveVersion.Info()
	if info == nil {
		return nil
	}
	kubernetes := version.MustParse(baseversion.DefaultKubeBinaryVersion)
	info.Major, info.Minor = version.Itoa(kubernetes.Major()), version.Itoa(kubernetes.Minor())
	info.GitVersion = "v" + libraryVersion(kubernetes) + "+leat." + strings.Trim(notOfBuild.ReplaceAllString(info.GitVersion, "-"), "-")
	return info
}

// notOfBuild matches what the build metadata of a semantic version cannot hold.
var notOfBuild = regexp.MustCompile(`[^0-9A-Za-z.]+`)

// libraryVersion returns the version of Kubernetes whose libraries the program is built from. Where the program does not know its
// modules it is the first of the minor version.
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
