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

package kit

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit/host"
)

// shipped returns the arguments that config/base has for a program. args replaces those with the same names.
func shipped(t testing.TB, file string, args ...string) []string {
	t.Helper()
	var deployment appsv1.Deployment
	firstDocument(t, file, &deployment)
	containers := deployment.Spec.Template.Spec.Containers
	if len(containers) != 1 || len(containers[0].Args) == 0 {
		t.Fatalf("config/base/%s: got a first document with %d containers, want a Deployment of one container with arguments",
			file, len(containers))
	}
	kept := without(containers[0].Args, args)
	for _, arg := range kept {
		if strings.Contains(arg, "=/") {
			t.Fatalf("config/base/%s: %s names a file of the image or of a volume: test/kit must replace it", file, arg)
		}
	}
	return append(kept, args...)
}

// without returns the arguments whose names are not those of others. A flag that is a list would otherwise get the
// values of both.
func without(args, others []string) []string {
	name := func(arg string) string { name, _, _ := strings.Cut(arg, "="); return name }
	return slices.DeleteFunc(slices.Clone(args), func(arg string) bool {
		return slices.ContainsFunc(others, func(other string) bool { return name(arg) == name(other) })
	})
}

// firstDocument reads the first object of a file in config/base.
func firstDocument(t testing.TB, file string, into any) {
	t.Helper()
	data := Must(os.ReadFile(filepath.Join(root(t), "config", "base", file)))(t)
	document, _, _ := strings.Cut(string(data), "\n---\n")
	Check(t, yaml.Unmarshal([]byte(document), into))
}

// WorkerClient creates the certificate that servers show to workers. It returns the file with its authority, and the
// arguments with which leat-apiserver reads output from workers on this machine.
func WorkerClient(t testing.TB) (clientCAFile string, args []string) {
	t.Helper()
	dir := t.TempDir()
	ca := Must(pki.NewCA("worker-clients"))(t)
	cert, key, err := ca.IssueClient(v1alpha1.WorkerClientName)
	Check(t, err)
	for name, content := range map[string][]byte{"ca.crt": ca.CertPEM(), "tls.crt": cert, "tls.key": key} {
		Check(t, pki.WriteFile(filepath.Join(dir, name), content))
	}
	return filepath.Join(dir, "ca.crt"), []string{
		"--worker-client-certificate=" + filepath.Join(dir, "tls.crt"), "--worker-client-key=" + filepath.Join(dir, "tls.key"),
		"--worker-address-ranges=127.0.0.0/8",
	}
}

// ArchiveInS3 starts an S3 server until the test ends. It returns the server, and the arguments with which
// leat-apiserver keeps its archive there: those of config/components/archive-s3, except for addresses and files.
func ArchiveInS3(t testing.TB) (*host.S3, []string) {
	t.Helper()
	var component struct {
		Patches []struct{ Patch string }
	}
	data := Must(os.ReadFile(filepath.Join(root(t), "config", "components", "archive-s3", "kustomization.yaml")))(t)
	Check(t, yaml.Unmarshal(data, &component))
	var operations []struct{ Path, Value any }
	for _, patch := range component.Patches {
		Check(t, yaml.Unmarshal([]byte(patch.Patch), &operations))
	}
	var args []string
	for _, operation := range operations {
		if operation.Path == "/spec/template/spec/containers/0/args/-" {
			args = append(args, operation.Value.(string))
		}
	}
	s3 := host.S3ForTest(t)
	own := []string{
		"--archive=s3://" + s3.Bucket + "/leat", "--archive-s3-endpoint=" + s3.Endpoint, "--archive-s3-credentials-file=" + s3.CredentialsFile,
	}
	kept := without(args, own)
	if len(kept) != len(args)-len(own) {
		t.Fatalf("config/components/archive-s3: got the arguments %q, want one for each of %q", args, own)
	}
	return s3, append(append(kept, own...), "--archive-s3-ca-file="+s3.CAFile)
}

// auditPolicy writes the audit policy of config/base to a file and returns its path.
func (e *Env) auditPolicy(t testing.TB) string {
	t.Helper()
	var policy corev1.ConfigMap
	firstDocument(t, "audit-policy.yaml", &policy)
	file := filepath.Join(e.dir, "audit-policy.yaml")
	Check(t, pki.WriteFile(file, []byte(policy.Data["policy.yaml"])))
	return file
}

// workerClient issues the client certificate that leat-apiserver presents to workers, and returns its paths.
func (e *Env) workerClient(t testing.TB) (certFile, keyFile string) {
	t.Helper()
	cert, key, err := Must(pki.NewCA("leat-worker-clients"))(t).IssueClient(v1alpha1.WorkerClientName)
	Check(t, err)
	certFile, keyFile = filepath.Join(e.dir, "worker-client.crt"), filepath.Join(e.dir, "worker-client.key")
	Check(t, pki.WriteFile(certFile, cert))
	Check(t, pki.WriteFile(keyFile, key))
	return certFile, keyFile
}
