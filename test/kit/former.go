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

package kit

import (
	"testing"

	"github.com/leat-dev/leat/test/kit/host"
)

// On is the former name of AggregatedOn.
func On(t testing.TB, cp *host.ControlPlane, args ...string) *Env {
	t.Helper()
	return AggregatedOn(t, cp, args...)
}

// Over is the former name of AggregatedWithEtcd.
func Over(t testing.TB, cp *host.ControlPlane, etcd *host.Etcd, args ...string) *Env {
	t.Helper()
	return AggregatedWithEtcd(t, cp, etcd, args...)
}
