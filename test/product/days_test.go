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

package product

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leat-dev/leat/test/kit"
)

// fails is a function of the scripts that succeeds if a command fails. A negated command would not stop the shell.
const fails = `fails() { ! "$@" || { echo "succeeded unexpectedly: $*"; exit 1; }; }
`

// daysStandalone runs whole days of work, as people type them. A script fails at the first command that does not do
// what it says.
func daysStandalone(t *testing.T, e *kit.Env) {
	scripts := kit.Must(filepath.Glob("testdata/days/*.sh"))(t)
	if len(scripts) != 3 {
		t.Fatalf("got the scripts %q, want three", scripts)
	}
	programs := kit.Must(filepath.Abs("../../bin"))(t)
	for _, script := range scripts {
		script := kit.Must(filepath.Abs(script))(t)
		t.Run(strings.TrimSuffix(filepath.Base(script), ".sh"), func(t *testing.T) {
			t.Parallel()
			home := t.TempDir()
			ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
			defer stop()
			command := exec.CommandContext(ctx, "bash", "-exo", "pipefail", "-c", fails+`. "$0"`, script)
			command.Dir = t.TempDir()
			command.Env = append(os.Environ(), "KUBECONFIG="+e.Kubeconfig(t, e.Admin(t), "default"), "HOME="+home, "NO_COLOR=1",
				"PATH="+filepath.Join(programs, "test")+":"+filepath.Join(programs, "host")+":"+os.Getenv("PATH"))
			command.WaitDelay = time.Second // children of a killed shell have its output open
			if out, err := command.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", filepath.Base(script), err, out)
			}
		})
	}
}
