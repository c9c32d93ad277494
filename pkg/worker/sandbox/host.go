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

package sandbox

import (
	"sync"

	"github.com/leat-dev/leat/pkg/worker/cgroup"
	"github.com/leat-dev/leat/pkg/worker/reaper"
)

// Host is what the workers of one process share: the reaper of its children and the control group in which it may
// create groups. A process must have only one Host. It is safe for concurrent use.
type Host struct {
	reaper     *reaper.Reaper
	delegation func() (cgroup.Delegation, error)
}

// NewHost returns the host of this process. It changes nothing until a worker runs.
func NewHost() *Host {
	return &Host{reaper: reaper.New(), delegation: sync.OnceValues(cgroup.Delegate)}
}

// Acquire makes this process adopt and reap orphans until each worker has called its release.
func (h *Host) Acquire() (release func()) { return h.reaper.Acquire() }
