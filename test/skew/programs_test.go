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

package skew

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// beforeChunks is the last commit whose programs do not know tasks with several indexes.
const beforeChunks = "302aa92"

// oldPrograms returns the directory of the programs of the commit before chunks. It builds them unless they exist.
func oldPrograms(t *testing.T) string {
	t.Helper()
	root := kit.Must(host.RepositoryRoot())(t)
	if _, err := os.Stat(filepath.Join(root, ".git")); os.IsNotExist(err) {
		t.Skip("this is not a repository: there is no earlier commit to build")
	}
	return kit.Must(buildOnce())(t)
}

var buildOnce = sync.OnceValues(func() (string, error) {
	root, err := host.RepositoryRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "bin", "skew", beforeChunks)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	// The directories have the same names each time, so that the build cache knows the packages.
	source, built := dir+"-source", dir+"-built"
	for _, command := range []string{
		`git cat-file -e "$COMMIT^{commit}"`,
		`rm -rf "$SOURCE" "$BUILT" && mkdir -p "$SOURCE" && git archive "$COMMIT" | tar -x -C "$SOURCE"`,
		`cd "$SOURCE" && go build -buildvcs=false -o "$BUILT/" ./cmd/leat ./cmd/leat-worker`,
		`rm -rf "$SOURCE"`,
	} {
		c := exec.Command("bash", "-o", "pipefail", "-c", command)
		c.Dir = root
		c.Env = append(os.Environ(), "COMMIT="+beforeChunks, "SOURCE="+source, "BUILT="+built)
		if output, err := c.CombinedOutput(); err != nil {
			return "", fmt.Errorf("building the programs of commit %s, which needs the whole history of the repository (git fetch --unshallow): %s: %w: %s",
				beforeChunks, command, err, output)
		}
	}
	return dir, os.Rename(built, dir)
})
