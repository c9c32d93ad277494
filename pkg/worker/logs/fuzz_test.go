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

package logs

import (
	"testing"

	"github.com/leat-dev/leat/pkg/worker/attempt"
)

// FuzzParseName checks that a parsed name formats to the same name, so that no file is mistaken for another.
func FuzzParseName(f *testing.F) {
	for _, name := range []string{"uid.1.0.log", "uid.1.0", "uid.-1.0.log", "uid.1.-1.log", ".1.0.log", "a.b.1.0.log", "uid.2147483648.0.log", "uid.01.0.log", "uid.1.00.log", "uid.+1.0.log", "", "....", "uid_7.1.0.log", "uid_.1.0.log", "uid_07.1.0.log", "uid_-1.1.0.log", "_7.1.0.log"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		id, n, ok := parseName(name)
		if !ok {
			return
		}
		if id.Task == "" || id.Index < attempt.NoIndex || id.Number < 0 || n < 0 {
			t.Errorf("%q is file %d of attempt %+v", name, n, id)
		}
		if written := (&Log{id: id}).name(n, logExt); written != name {
			t.Errorf("%q is read as that of %q", name, written)
		}
	})
}
