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
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/pkg/worker/attempt"
)

func logSettingsOf(t *testing.T, args ...string) *logSettings {
	t.Helper()
	l := &logSettings{}
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	l.addFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	if err := l.validate(); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestWhereLogsAreKept(t *testing.T) {
	id := identity{namespace: "ns", name: "w"}
	state, given := t.TempDir(), t.TempDir()
	for name, test := range map[string]struct {
		args   []string
		state  string
		want   string // directory with the output
		failed string
	}{
		"by default":                         {state: state, want: filepath.Join(state, "logs", "ns", "w")},
		"by flag":                            {args: []string{"--log-dir=" + given}, state: state, want: filepath.Join(given, "ns", "w")},
		"nowhere":                            {args: []string{"--log-max-total-size=0"}, state: state},
		"nowhere, as nothing can be kept":    {state: "/dev/null"},
		"by flag, unusable":                  {args: []string{"--log-dir=/dev/null"}, state: state, failed: "--log-dir=/dev/null"},
		"where it must be served and cannot": {args: []string{"--client-ca-file=ca"}, state: "/dev/null", failed: "--log-dir=/dev/null/logs"},
	} {
		t.Run(name, func(t *testing.T) {
			store, err := logSettingsOf(t, test.args...).open(id, test.state)
			if test.failed != "" {
				if err == nil || !strings.Contains(err.Error(), test.failed) {
					t.Errorf("The error is %v, want %q.", err, test.failed)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			log := store.Create(attempt.ID{Task: "uid", Index: attempt.NoIndex, Number: 1})
			_, _ = log.Write([]byte("x"))
			log.Close()
			if files, _ := filepath.Glob(filepath.Join(test.want, "uid.1.0.log")); (len(files) == 1) != (test.want != "") {
				t.Errorf("There is %v in %q.", files, test.want)
			}
		})
	}
}

func TestWhereLogsAreServed(t *testing.T) {
	t.Setenv("POD_IP", "")
	ca, err := pki.NewCA("clients")
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(t.TempDir(), "ca.crt")
	if err := pki.WriteFile(caFile, ca.CertPEM()); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args   []string
		podIP  string
		server string
		want   string // empty: nowhere
		failed string
	}{
		"nowhere":                         {},
		"towards the API":                 {args: []string{"--client-ca-file=" + caFile}, server: "https://127.0.0.1:6443/prefix", want: "127.0.0.1"},
		"towards the API, without scheme": {args: []string{"--client-ca-file=" + caFile}, server: "127.0.0.1:6443", want: "127.0.0.1"},
		"at the address of the pod":       {args: []string{"--client-ca-file=" + caFile}, podIP: "127.0.0.3", server: "https://127.0.0.1", want: "127.0.0.3"},
		"by flag":                         {args: []string{"--client-ca-file=" + caFile, "--log-address=127.0.0.2"}, podIP: "127.0.0.3", want: "127.0.0.2"},
		"by name":                         {args: []string{"--client-ca-file=" + caFile, "--log-address=w.example.com"}, want: "w.example.com"},
		"at an address of somebody else":  {args: []string{"--client-ca-file=" + caFile, "--log-address=192.0.2.1"}, failed: "--log-address=192.0.2.1"},
		"to nobody who is known":          {args: []string{"--client-ca-file=/no/such/file", "--log-address=127.0.0.1"}, failed: "/no/such/file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("POD_IP", test.podIP)
			server, err := logSettingsOf(t, test.args...).serve(nil, nil, identity{namespace: "ns", name: "w"}, &rest.Config{Host: test.server})
			if test.failed != "" {
				if err == nil || !strings.Contains(err.Error(), test.failed) {
					t.Errorf("The error is %v, want %q.", err, test.failed)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			host := ""
			if endpoint := server.Endpoint(); endpoint != nil {
				host = endpoint.Host
			}
			if host != test.want {
				t.Errorf("It is served at %q, want %q.", host, test.want)
			}
		})
	}
}
