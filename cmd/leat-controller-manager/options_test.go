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
	"strings"
	"testing"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

func TestValidateFlags(t *testing.T) {
	for args, want := range map[string]string{
		"":                              "",
		"--concurrent-tasksets=0":       "--concurrent-tasksets 0: must be 1 or more",
		"--scheduling-strategy=pack":    "",
		"--scheduling-strategy=random":  `--scheduling-strategy "random": must be one of ["spread" "pack"]`,
		"--gc-percent=0":                "--gc-percent 0: must be from 10 to 10000; Go's own default is 100",
		"--namespace-sweep-interval=0s": "--namespace-sweep-interval 0s: must be more than 0",
		"--register-service=leat-system/leat-apiserver:443":            "",
		"--register-service=leat-apiserver":                            `--register-service "leat-apiserver": must be NAMESPACE/NAME:PORT`,
		"--metrics-bind-address=0":                                     "",
		"--metrics-bind-address=8080":                                  `--metrics-bind-address "8080": must be host:port, :port, or 0 for none`,
		"--health-probe-bind-address=x":                                `--health-probe-bind-address "x": must be host:port, :port, or 0 for none`,
		"--leader-elect-namespace=":                                    "--leader-elect-namespace: must be set with --leader-elect",
		"--leader-elect-namespace= --leader-elect=false":               "",
		"--leader-elect-renew-deadline=20s":                            "--leader-elect-lease-duration 15s must be more than",
		"--leader-elect-retry-period=9s":                               "more than 1.2 times --leader-elect-retry-period 9s",
		"--leader-elect-retry-period=9s --leader-elect=false":          "",
		"--leader-elect-retry-period=0s":                               "must be positive",
		"--leader-elect-lease-duration=60s --concurrent-tasksets=1000": "",
	} {
		t.Run(args, func(t *testing.T) {
			o := newOptions()
			for _, set := range o.flags().FlagSets {
				for _, arg := range strings.Fields(args) {
					if name, value, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "="); set.Lookup(name) != nil {
						if err := set.Set(name, value); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			err := utilerrors.NewAggregate(o.validate())
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("the error is %v, want one that contains %q", err, want)
			}
		})
	}
}

func TestMetricsRequireAuthorizationExceptOnLoopback(t *testing.T) {
	for address, secure := range map[string]bool{
		"127.0.0.1:8080": false, "localhost:8080": false, "[::1]:8080": false,
		":8443": true, "0.0.0.0:8443": true, "10.1.2.3:8443": true, "[::]:8443": true, "example.com:8443": true,
	} {
		o := newOptions()
		o.metricsAddress = address
		if got := o.metrics(); got.SecureServing != secure || (got.FilterProvider != nil) != secure {
			t.Errorf("%s: with TLS %v, with authorization %v", address, got.SecureServing, got.FilterProvider != nil)
		}
	}
}
