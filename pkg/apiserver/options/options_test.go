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

package options

import (
	"errors"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	genericfeatures "k8s.io/apiserver/pkg/features"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	basecompatibility "k8s.io/component-base/compatibility"

	"github.com/leat-dev/leat/pkg/apiserver/scheme"
)

// flagSet returns all flags of the options.
func flagSet(options *Options) *pflag.FlagSet {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, group := range options.Flags().FlagSets {
		flags.AddFlagSet(group)
	}
	return flags
}

// parse parses and validates flags as the program does.
func parse(t *testing.T, args ...string) (*Options, error) {
	t.Helper()
	options, err := NewOptions()
	if err != nil {
		t.Fatal(err)
	}
	if err := flagSet(options).Parse(args); err != nil {
		t.Fatal(err)
	}
	if err := options.Complete(); err != nil {
		return options, err
	}
	return options, errors.Join(options.Validate()...)
}

var etcdFlags = []string{"--etcd-servers=https://etcd:2379", "--etcd-cafile=ca", "--etcd-certfile=cert", "--etcd-keyfile=key"}

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"etcd by mutual TLS", etcdFlags, ""},
		{"etcd by a socket", []string{"--etcd-servers=unix:///etcd.sock"}, ""},
		{"no etcd", nil, "--etcd-servers must be specified"},
		{
			"etcd without TLS", []string{"--etcd-servers=http://etcd:2379"},
			`--etcd-servers: "http://etcd:2379": etcd is reached only by mutual TLS: give an https:// address`,
		},
		{
			"etcd without a certificate", []string{"--etcd-servers=https://etcd:2379", "--etcd-cafile=ca"},
			"--etcd-servers: etcd is reached only by mutual TLS: give --etcd-cafile, --etcd-certfile and --etcd-keyfile too",
		},
		{
			"etcd of one kind without TLS", append(etcdFlags, "--etcd-servers-overrides=batch.leat.dev/tasks#https://other:2379;http://other:2380"),
			`--etcd-servers-overrides: "http://other:2380": etcd is reached only by mutual TLS: give an https:// address`,
		},
		{"an archive in a directory", append(etcdFlags, "--archive=file:///dir", "--archive-retention=1h"), ""},
		{"an archive in a bucket", append(etcdFlags, "--archive=s3://bucket/prefix", "--archive-s3-region=eu-1"), ""},
		{
			"an archive elsewhere", append(etcdFlags, "--archive=gs://bucket"),
			"--archive=gs://bucket: must be file:///DIRECTORY or s3://BUCKET/PREFIX, or empty for no archive",
		},
		{
			"a directory with a region", append(etcdFlags, "--archive=file:///dir", "--archive-s3-region=eu-1"),
			"--archive-s3-region=eu-1: may be set only with --archive=s3://BUCKET/PREFIX",
		},
		{
			"a bucket with a retention", append(etcdFlags, "--archive=s3://bucket", "--archive-retention=1h"),
			"--archive-retention=1h0m0s: must not be set with a bucket, from which the server removes nothing: give the bucket a lifecycle rule",
		},
		{"no retention", append(etcdFlags, "--archive-retention=0"), "--archive-retention=0s: must be more than 0"},
		{"no rate", append(etcdFlags, "--archive-max-rate-per-namespace=0"), "--archive-max-rate-per-namespace=0: must be from 1Ki to 1Ti"},
		{"large attempts", append(etcdFlags, "--archive-max-bytes-per-attempt=1Gi"), "--archive-max-bytes-per-attempt=1Gi: must be from 1Ki to 64Mi"},
		{"no port", append(etcdFlags, "--secure-port=0"), "--secure-port: give a port: the server speaks nothing but HTTPS"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parse(t, test.args...)
			if got := message(err); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestVersionsAndFeatureGates(t *testing.T) {
	for _, test := range []struct {
		flag, want string
	}{
		{"--emulated-version=leat=0.1", ""},
		{"--emulated-version=leat=0.2", "emulation version 0.2 is not between [0.1, 0.1.0]"},
		{"--emulated-version=leat=1.0", "emulation version 1.0 is not between [0.1, 0.1.0]"},
		{"--emulated-version=leat=0.0", "emulation version 0.0 is not between [0.1, 0.1.0]"},
		{"--emulated-version=kube=1.36", "EmulationVersion of kube is set by mapping"},
		{"--emulated-version=other=1.0", "component not registered: other"},
		{"--emulation-forward-compatible", "cannot be set to true if the emulation version is the same as the binary version"},
		{"--min-compatibility-version=leat=0.1", ""},
		{"--min-compatibility-version=leat=0.0", "0.0 is not between [0.1, 0.1]"},
		{"--feature-gates=kube:CBORServingAndStorage=false", ""},
		{"--feature-gates=CBORServingAndStorage=false", ""},
		{"--feature-gates=leat:CBORServingAndStorage=false", "unrecognized feature gate: CBORServingAndStorage"},
	} {
		t.Run(test.flag, func(t *testing.T) {
			_, err := parse(t, append(etcdFlags, test.flag)...)
			if got := message(err); got != "" && test.want == "" || !strings.Contains(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestEmulatedVersionOfKubernetes(t *testing.T) {
	options, err := parse(t, append(etcdFlags, "--emulated-version=leat=0.1")...)
	if err != nil {
		t.Fatal(err)
	}
	kubernetes := options.versions.EffectiveVersionFor(basecompatibility.DefaultKubeComponent)
	if !kubernetes.EmulationVersion().EqualTo(kubernetes.BinaryVersion().WithPatch(0)) {
		t.Errorf("emulating the newest Leat, Kubernetes is %s of %s", kubernetes.EmulationVersion(), kubernetes.BinaryVersion())
	}
}

func TestCBORFeatureGate(t *testing.T) {
	supported := func() bool {
		for _, info := range scheme.NewCodecs(scheme.Scheme).SupportedMediaTypes() {
			if info.MediaType == "application/cbor" {
				return true
			}
		}
		return false
	}
	if supported() {
		t.Error("CBOR is supported by default")
	}
	t.Cleanup(func() {
		if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(map[string]bool{string(genericfeatures.CBORServingAndStorage): false}); err != nil {
			t.Error(err)
		}
	})
	if _, err := parse(t, append(etcdFlags, "--feature-gates=kube:CBORServingAndStorage=true")...); err != nil {
		t.Fatal(err)
	}
	if !supported() {
		t.Error("CBOR is not supported with the feature gate")
	}
}
