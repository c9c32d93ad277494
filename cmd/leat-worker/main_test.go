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

package main

import (
	"bytes"
	"context"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/standalone/pki"
)

// isolate hides the kubeconfig and the state of the user who runs the test.
func isolate(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBECONFIG", "")
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	t.Setenv("POD_NAME", "")
	t.Setenv("XDG_STATE_HOME", "")
}

func TestInvalidFlagsAreNamed(t *testing.T) {
	isolate(t)
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("no: [kubeconfig"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no access":                  {nil, "set --kubeconfig"},
		"no such kubeconfig":         {[]string{"--kubeconfig=/no/such/file"}, "/no/such/file"},
		"kubeconfig that is none":    {[]string{"--kubeconfig=" + garbage}, garbage},
		"no tasks":                   {[]string{"--tasks=0"}, "--tasks=0: must be 1 or more"},
		"tasks as a capacity":        {[]string{"--capacity=tasks=3"}, "a flag of its own"},
		"capacity without a domain":  {[]string{"--capacity=gpu=3"}, "like example.com/gpu"},
		"capacity that is no number": {[]string{"--capacity=cpu=many"}, "a number like 4, 500m or 16Gi"},
		"negative capacity":          {[]string{"--capacity=cpu=-1"}, "0 or more"},
		"label with a bad key":       {[]string{"--labels=a b=c"}, "--labels"},
		"a pool with a bad name":     {[]string{"--pool=My Pool"}, "--pool=My Pool: a lowercase RFC 1123 label"},
		"two pools":                  {[]string{"--pool=a", "--labels=batch.leat.dev/pool=b"}, "leave the label out"},
		"taint without an effect":    {[]string{"--taints=a=b"}, "must be NoSchedule, PreferNoSchedule or NoExecute"},
		"taint with a bad key":       {[]string{"--taints=a b:NoExecute"}, "--taints=a b:NoExecute"},
		"no time to drain":           {[]string{"--drain-timeout=0s"}, "must be more than 0"},
		"logs too small":             {[]string{"--log-max-size-per-task=1Ki"}, "must be 16Ki or more"},
		"less in all than for one":   {[]string{"--log-max-total-size=1Mi"}, "no less than --log-max-size-per-task=10Mi"},
		"logs of no size":            {[]string{"--log-max-total-size=much"}, "--log-max-total-size"},
		"logs kept for no time":      {[]string{"--log-retention=0s"}, "must be more than 0"},
		"no logs to serve":           {[]string{"--log-max-total-size=0", "--client-ca-file=ca.crt"}, "there is nothing to serve"},
		"an archive by name":         {[]string{"--archive=s3://bucket"}, "must be auto or off"},
		"attempts too large":         {[]string{"--archive-max-bytes-per-attempt=5Mi"}, "must be from 0 to 4Mi"},
		"a spool too small":          {[]string{"--archive-max-spool-size=8Mi"}, "must be 16Mi or more"},
		"a port that is none":        {[]string{"--log-port=65536"}, "must be from 0 to 65535"},
		"an echo that is none":       {[]string{"--echo=xml"}, "must be json"},
		"an address with a port":     {[]string{"--log-address=10.0.0.1:80"}, "without a port"},
		"broken seconds":             {[]string{"--lease-duration=1500ms"}, "whole seconds"},
		"no processes":               {[]string{"--task-max-pids=0"}, "1 or more, or -1 for any number"},
		"metrics at a name":          {[]string{"--metrics-bind-address=example.com:9090"}, "must be an IP address and a port"},
		"metrics without a port":     {[]string{"--metrics-bind-address=127.0.0.1"}, "like 127.0.0.1:9090, or :9090 for all addresses"},
		"an argument":                {[]string{"now"}, "unknown command"},
		"a flag that is not there":   {[]string{"--task=3"}, "unknown flag"},
	} {
		t.Run(name, func(t *testing.T) {
			command := newCommand()
			var output bytes.Buffer
			command.SetOut(&output)
			command.SetErr(&output)
			command.SetArgs(tc.args)
			if err := command.Execute(); err == nil || !strings.Contains(output.String(), tc.want) {
				t.Errorf("leat-worker %s: %v, printed %q; want it to fail and say %q", strings.Join(tc.args, " "), err, output.String(), tc.want)
			}
		})
	}
}

func TestTaints(t *testing.T) {
	taints, err := parseTaints([]string{"a=b:NoExecute", "example.com/c:PreferNoSchedule"})
	if err != nil || len(taints) != 2 || taints[0] != (batch.Taint{Key: "a", Value: "b", Effect: "NoExecute"}) ||
		taints[1] != (batch.Taint{Key: "example.com/c", Effect: "PreferNoSchedule"}) {
		t.Errorf("parsed %+v, %v", taints, err)
	}
}

// withCertificate returns a client configuration with a client certificate.
func withCertificate(t *testing.T, user string, groups ...string) *rest.Config {
	t.Helper()
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.IssueClient(user, groups...)
	if err != nil {
		t.Fatal(err)
	}
	return &rest.Config{TLSClientConfig: rest.TLSClientConfig{CertData: cert, KeyData: key}}
}

func TestIdentity(t *testing.T) {
	generated := regexp.MustCompile(`^[a-z0-9-]+-[a-z2-7]{5}$`)
	for name, tc := range map[string]struct {
		settings   settings
		podName    string
		user       string
		groups     []string
		want       identity // an empty name stands for a generated one
		wantFailed string
	}{
		"by flags":                          {settings: settings{namespace: "n", name: "w"}, podName: "pod", want: identity{namespace: "n", name: "w"}},
		"by certificate":                    {podName: "pod", user: "leat:worker:n:w", groups: []string{"leat:workers"}, want: identity{namespace: "n", name: "w"}},
		"by certificate and the same flags": {settings: settings{namespace: "n", name: "w"}, user: "leat:worker:n:w", groups: []string{"leat:workers"}, want: identity{namespace: "n", name: "w"}},
		"another name than the certificate": {settings: settings{name: "v"}, user: "leat:worker:n:w", groups: []string{"leat:workers"}, wantFailed: "worker w in namespace n"},
		"another namespace":                 {settings: settings{namespace: "m"}, user: "leat:worker:n:w", groups: []string{"leat:workers"}, wantFailed: "worker w in namespace n"},
		"somebody else's certificate":       {podName: "pod", user: "alice", groups: []string{"leat:admins"}, want: identity{namespace: "of-the-access", name: "pod"}},
		"named as a worker, in no group":    {podName: "pod", user: "leat:worker:n:w", want: identity{namespace: "of-the-access", name: "pod"}},
		"in a pod":                          {podName: "pod", want: identity{namespace: "of-the-access", name: "pod"}},
		"on a machine":                      {want: identity{namespace: "of-the-access"}},
		"bad name":                          {settings: settings{name: "A_B"}, wantFailed: "--name=A_B"},
		"bad namespace":                     {settings: settings{namespace: "a.b"}, wantFailed: "--namespace=a.b"},
	} {
		t.Run(name, func(t *testing.T) {
			isolate(t)
			t.Setenv("POD_NAME", tc.podName)
			config := &rest.Config{}
			if tc.user != "" {
				config = withCertificate(t, tc.user, tc.groups...)
			}
			tc.settings.stateDir = t.TempDir()
			id, err := tc.settings.identify(config, "of-the-access")
			defer id.release()
			switch {
			case tc.wantFailed != "":
				if err == nil || !strings.Contains(err.Error(), tc.wantFailed) {
					t.Errorf("identity %+v, %v; want it to fail and say %q", id, err, tc.wantFailed)
				}
			case err != nil:
				t.Error(err)
			case tc.want.name == "":
				if id.namespace != tc.want.namespace || !generated.MatchString(id.name) {
					t.Errorf("identity %+v, want a generated name", id)
				}
			case id != tc.want:
				t.Errorf("identity %+v, want %+v", id, tc.want)
			}
		})
	}
}

func TestGeneratedNameIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	var slots []*os.File
	generate := func(dir string) string {
		name, slot := generatedName(dir)
		slots = append(slots, slot)
		return name
	}
	first, second := generate(dir), generate(dir)
	if first == second {
		t.Errorf("two workers at a time are both %s", first)
	}
	restart := func() {
		for _, slot := range slots {
			slot.Close()
		}
		slots = nil
	}
	restart()
	if again := []string{generate(dir), generate(dir)}; !slices.Equal(again, []string{first, second}) {
		t.Errorf("after a restart they are %v, were %s and %s", again, first, second)
	}
	restart()
	if err := os.WriteFile(filepath.Join(dir, "worker-0"), []byte("not a name, and a long one, at that"), 0o600); err != nil {
		t.Fatal(err)
	}
	name := generate(dir)
	restart()
	if again := generate(dir); name == first || again != name {
		t.Errorf("instead of what was no name it is %s, then %s", name, again)
	}
	restart()
	if a, b := generate("/dev/null/state"), generate("/dev/null/state"); a == b || a == "" {
		t.Errorf("where no name can be kept they are %q and %q", a, b)
	}
}

func TestProgramIsStaticAndSmall(t *testing.T) {
	const limit = 40_000_000
	path := filepath.Join(t.TempDir(), "leat-worker")
	build := exec.CommandContext(context.Background(), "go", "build", "-ldflags=-s -w", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", info.Size())
	if info.Size() > limit {
		t.Errorf("the program has %d bytes, more than %d", info.Size(), limit)
	}
	program, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, segment := range program.Progs {
		if segment.Type == elf.PT_INTERP {
			t.Error("the program needs a dynamic linker, which an image need not have")
		}
	}
	out, err := exec.CommandContext(context.Background(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dependency := range strings.Lines(string(out)) {
		for _, prefix := range []string{"k8s.io/apiserver/", "sigs.k8s.io/controller-runtime/", "go.etcd.io/"} {
			if strings.HasPrefix(dependency, prefix) {
				t.Errorf("the program depends on %s", strings.TrimSpace(dependency))
			}
		}
	}
}

func TestInstallCopiesTheProgram(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "leat-worker")
	if err := os.WriteFile(target, []byte("an old one"), 0o600); err != nil {
		t.Fatal(err)
	}
	command := newCommand()
	command.SetArgs([]string{"install", dir})
	if err := command.Execute(); err != nil {
		t.Fatal(err)
	}
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(own)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(target)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the copy has %d bytes, the program %d: %v", len(got), len(want), err)
	}
	if info, err := os.Stat(target); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the copy has mode %v: %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("beside the copy there is something else: %v, %v", entries, err)
	}
	command.SetArgs([]string{"install", filepath.Join(dir, "none")})
	if err := command.Execute(); err == nil || !strings.Contains(err.Error(), "can be written to") {
		t.Errorf("into a directory that is not there: %v", err)
	}
}
