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

package chaos

import (
	"fmt"
	"time"
)

// expired is a watch that was answered 410.
type expired struct {
	from int64
	at   time.Time
}

// horizon is a moment from which a server may answer 410 to watches from before a revision: etcd was compacted, or a
// server has initialized its watch cache, which has only later changes.
type horizon struct {
	before int64
	at     time.Time
}

// checkExpired returns the watches that were answered 410 without a reason.
func checkExpired(refusals []expired, reasons []horizon) (wrong []string) {
next:
	for _, e := range refusals {
		for _, f := range reasons {
			if e.from < f.before && !f.at.After(e.at) {
				continue next
			}
		}
		wrong = append(wrong, fmt.Sprintf("a watch from revision %d was answered 410 at %s without a reason", e.from, e.at.Format(time.TimeOnly)))
	}
	return wrong
}
