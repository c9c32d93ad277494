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
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/version"
	basecompatibility "k8s.io/component-base/compatibility"
	baseversion "k8s.io/component-base/version"
)

// TestStandaloneVersion expects the version of Kubernetes, which kubectl compares with its own.
func TestStandaloneVersion(t *testing.T) {
	info := standaloneVersion{basecompatibility.NewEffectiveVersionFromString(minorVersion, firstVersion, firstVersion)}.Info()
	got, err := version.ParseSemantic(info.GitVersion)
	if err != nil {
		t.Fatalf("%q: %v", info.GitVersion, err)
	}
	want := version.MustParse(baseversion.DefaultKubeBinaryVersion)
	if got.Major() != want.Major() || got.Minor() != want.Minor() || info.Major != "1" || info.Minor != version.Itoa(want.Minor()) {
		t.Errorf("got %q, %s.%s; want %s", info.GitVersion, info.Major, info.Minor, want)
	}
	if !strings.Contains(info.GitVersion, "+leat.") || got.BuildMetadata() == "" {
		t.Errorf("got %q without the version of Leat", info.GitVersion)
	}
}
