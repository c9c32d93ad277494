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
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/leat-dev/leat/cmd/internal/collector"
	serveroptions "github.com/leat-dev/leat/pkg/apiserver/options"
)

// asProgram is the environment variable that makes the test binary run as leat-apiserver.
const asProgram = "LEAT_APISERVER_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// run runs leat-apiserver with flags that it refuses, and returns its log.
func run(t *testing.T, args ...string) string {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	command := exec.CommandContext(ctx, program, append([]string{"--etcd-servers=http://insecure"}, args...)...)
	command.Env = append(os.Environ(), asProgram+"=true")
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	if err := command.Run(); err == nil || !strings.Contains(out.String(), "mutual TLS") {
		t.Fatalf("got %v: %s", err, &out)
	}
	return out.String()
}

func TestAllFlagsBelongToOptions(t *testing.T) {
	command, err := newCommand()
	if err != nil {
		t.Fatal(err)
	}
	options, err := serveroptions.NewOptions()
	if err != nil {
		t.Fatal(err)
	}
	known := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, group := range options.Flags().FlagSets {
		known.AddFlagSet(group)
	}
	(&collector.Options{}).AddFlags(known)
	command.InitDefaultHelpFlag()
	command.InitDefaultVersionFlag()
	command.Flags().VisitAll(func(flag *pflag.Flag) {
		if known.Lookup(flag.Name) == nil && flag.Name != "help" && flag.Name != "version" {
			t.Errorf("--%s: add it to options.Options or collector.Options, where its effect is tested", flag.Name)
		}
	})
}

func TestLoggingFlags(t *testing.T) {
	const flagsShown = "FLAG: --bind-address"
	if log := run(t); strings.Contains(log, flagsShown) {
		t.Errorf("by default the log shows all flags: %s", log)
	}
	if log := run(t, "-v=1"); !strings.Contains(log, flagsShown) {
		t.Errorf("with -v=1 the log does not show the flags: %s", log)
	}
	if log := run(t, "--vmodule=flags=1"); !strings.Contains(log, flagsShown) {
		t.Errorf("with --vmodule=flags=1 the log does not show the flags: %s", log)
	}
	// Alpha options of logging are refused unless the feature gates are set before.
	if log := run(t, "--feature-gates=kube:LoggingAlphaOptions=true", "--log-text-split-stream"); strings.Contains(log, "LoggingAlphaOptions") {
		t.Errorf("the feature gates are set after logging: %s", log)
	}
}

func TestUnknownFeatureGate(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), program, "--feature-gates=kube:Unknown=true")
	command.Env = append(os.Environ(), asProgram+"=true")
	if out, err := command.CombinedOutput(); err == nil || !strings.Contains(string(out), "unrecognized feature gate: Unknown") {
		t.Errorf("got %v: %s", err, out)
	}
}
