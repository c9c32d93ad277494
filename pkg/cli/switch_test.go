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

package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericclioptions"
)

// leatCommand matches a command line in a page.
var leatCommand = regexp.MustCompile("`leat ([^`]+)`")

// TestThePageForOtherToolsIsTrue runs the commands of the page that translates those of other tools: those that create
// something without sending it, and of the others the parser.
func TestThePageForOtherToolsIsTrue(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "how-to", "switch.md"))
	if err != nil {
		t.Fatal(err)
	}
	noCluster(t)
	t.Chdir(t.TempDir())
	for name, content := range map[string]string{"job.sh": "#!/bin/sh\n#LEAT --memory 2Gi\n", "FILE": "a\nb\n"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var commands [][]string
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "|") {
			commands = append(commands, leatCommand.FindAllStringSubmatch(line, -1)...)
		}
	}
	if len(commands) < 30 {
		t.Fatalf("the page has %d commands", len(commands))
	}
	for _, match := range commands {
		line, _, _ := strings.Cut(match[1], " && ")
		args := strings.Fields(line)
		if args[0] == "run" {
			args = append([]string{"run", "--dry-run=client", "-o=name"}, args[1:]...)
			if out, errOut, code := call(t, "leat", "", args...); code != 0 || !strings.Contains(out, "batch.leat.dev/") {
				t.Errorf("leat %s: exit code %d, %q %q", line, code, out, errOut)
			}
			continue
		}
		f := &factory{program: "leat", flags: genericclioptions.NewConfigFlags(false)}
		command, rest, err := f.newRootCommand(nil).Find(args)
		if err == nil {
			err = command.ParseFlags(rest)
		}
		if err == nil && command.Args != nil {
			err = command.ValidateArgs(command.Flags().Args())
		}
		if err != nil || !command.HasParent() {
			t.Errorf("leat %s: %v", line, err)
		}
	}
}
