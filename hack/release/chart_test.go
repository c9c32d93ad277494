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
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/yaml"
)

// repository is the root of the repository.
const repository = "../.."

// helm runs helm, and returns its output.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	program, err := filepath.Abs(filepath.Join(repository, "bin", "host", "helm"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v: run \"make host\"", err)
	}
	command := exec.CommandContext(t.Context(), program, args...)
	command.Env = []string{"HOME=" + t.TempDir()}
	out, err := command.CombinedOutput()
	return string(out), err
}

// testImage is an image that is known by its digest.
var testImage = types.Image{Name: "leat", NewName: "registry.example.com:5000/leat", NewTag: "v0.1.0", Digest: "sha256:" + strings.Repeat("0a", 32)}

// testChart writes a chart for testImage once, and returns its path.
func testChart(t *testing.T) string {
	t.Helper()
	chart, err := writeTestChart()
	if err != nil {
		t.Fatal(err)
	}
	return chart
}

var (
	chartDirectory string
	writeTestChart = sync.OnceValues(func() (string, error) {
		r := &release{source: repository, dist: chartDirectory, version: "v0.1.0", created: time.Unix(0, 0)}
		return r.file(".tgz"), r.writeChart(testImage)
	})
)

func TestMain(m *testing.M) {
	var err error
	if chartDirectory, err = os.MkdirTemp("", "leat-chart-"); err != nil {
		log.Fatal(err)
	}
	code := m.Run()
	if err := os.RemoveAll(chartDirectory); err != nil {
		log.Fatal(err)
	}
	os.Exit(code)
}

// object is an object of a manifest.
type object map[string]any

// objects returns the objects of a stream of YAML documents by kind, namespace and name.
func objects(t *testing.T, text string) map[string]object {
	t.Helper()
	all := map[string]object{}
	for document := range strings.SplitSeq("\n"+text, "\n---\n") {
		var read object
		if err := yaml.Unmarshal([]byte(document), &read); err != nil {
			t.Fatalf("%v:\n%s", err, document)
		}
		if len(read) == 0 {
			continue
		}
		metadata := read["metadata"].(map[string]any)
		namespace, _ := metadata["namespace"].(string)
		id := strings.Join([]string{read["kind"].(string), namespace, metadata["name"].(string)}, "/")
		if all[id] != nil {
			t.Errorf("%s is there twice", id)
		}
		all[id] = read
	}
	return all
}

// The values that the components of config/ have as examples.
var exampleValues = map[string][]string{
	"external": {`etcd.external.servers={https://etcd.example.com:2379}`},
	"s3":       {"archive.url=s3://leat-archive/leat", "archive.endpoint=https://s3.example.com", "archive.region=us-east-1"},
}

func TestChartRendersWhatKustomizeBuilds(t *testing.T) {
	t.Parallel()
	chart := testChart(t)
	etcd, err := etcdImage(repository)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range combinations() {
		args, name := []string{"template", "leat", chart, "--namespace=default"}, ""
		for i, option := range options {
			value := option.choices[c[i]].value
			name += strings.TrimPrefix(option.value, ".Values.") + "=" + value + ","
			if !option.boolean {
				args = append(args, "--set="+strings.TrimPrefix(option.value, ".Values.")+"="+value)
			}
			for _, more := range exampleValues[value] {
				args = append(args, "--set="+more)
			}
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rendered, err := helm(t, args...)
			if err != nil {
				t.Fatalf("helm %q: %v: %s", args, err, rendered)
			}
			built, err := kustomize(repository, c.paths(), testImage, etcd)
			if err != nil {
				t.Fatal(err)
			}
			text, err := built.AsYaml()
			if err != nil {
				t.Fatal(err)
			}
			got, want := objects(t, rendered), objects(t, string(text))
			// The only intended difference.
			if claim := got["PersistentVolumeClaim/leat-system/leat-etcd-backup"]; claim != nil {
				metadata := claim["metadata"].(map[string]any)
				if diff := cmp.Diff(map[string]any{"helm.sh/resource-policy": "keep"}, metadata["annotations"]); diff != "" {
					t.Errorf("annotations of the claim for backups (-want +got):\n%s", diff)
				}
				delete(metadata, "annotations")
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("objects of the chart (-kustomize +helm):\n%s", diff)
			}
		})
	}
}

func TestDefaultValuesInstallTheDefault(t *testing.T) {
	t.Parallel()
	rendered, err := helm(t, "template", "leat", testChart(t), "--namespace=default")
	if err != nil {
		t.Fatal(err, rendered)
	}
	built, err := kustomize(repository, []string{"default"}, testImage)
	if err != nil {
		t.Fatal(err)
	}
	text, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	got, want := objects(t, rendered), objects(t, string(text))
	delete(got["PersistentVolumeClaim/leat-system/leat-etcd-backup"]["metadata"].(map[string]any), "annotations")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("objects of the chart (-kustomize +helm):\n%s", diff)
	}
}

func TestValuesReachTheManifests(t *testing.T) {
	t.Parallel()
	rendered, err := helm(t, "template", "leat", testChart(t), "--namespace=leat-system",
		"--set=image.repository=registry.example.com/other", "--set=image.tag=v0.2.0", "--set=image.digest=",
		"--set=apiserver.replicas=3", "--set=apiserver.extraArgs={--v=2,--emulated-version=leat=0.1}", "--set=controllerManager.replicas=1",
		"--set=controllerManager.extraArgs={--v=3}", "--set=etcd.mode=external", "--set=etcd.external.servers={https://a:2379,https://b:2379}", "--set=etcd.external.prefix=/two")
	if err != nil {
		t.Fatal(err, rendered)
	}
	all := objects(t, rendered)
	type container struct {
		Image string
		Args  []string
	}
	deployment := func(name string) (int, container) {
		t.Helper()
		text, err := yaml.Marshal(all["Deployment/leat-system/"+name])
		if err != nil {
			t.Fatal(err)
		}
		var read struct {
			Spec struct {
				Replicas int
				Template struct {
					Spec struct{ Containers []container }
				}
			}
		}
		if err := yaml.Unmarshal(text, &read); err != nil {
			t.Fatal(err)
		}
		return read.Spec.Replicas, read.Spec.Template.Spec.Containers[0]
	}
	replicas, server := deployment("leat-apiserver")
	if replicas != 3 || server.Image != "registry.example.com/other:v0.2.0" {
		t.Errorf("leat-apiserver: got %d replicas of %s", replicas, server.Image)
	}
	for _, arg := range []string{"--v=2", "--emulated-version=leat=0.1", "--etcd-servers=https://a:2379,https://b:2379", "--etcd-prefix=/two"} {
		if !slices.Contains(server.Args, arg) {
			t.Errorf("leat-apiserver: got arguments %q, want %s among them", server.Args, arg)
		}
	}
	replicas, manager := deployment("leat-controller-manager")
	if replicas != 1 || !slices.Contains(manager.Args, "--v=3") {
		t.Errorf("leat-controller-manager: got %d replicas with arguments %q", replicas, manager.Args)
	}
	// Helm itself creates the namespace of the release.
	if all["Namespace//leat-system"] != nil {
		t.Error("the release in leat-system has the namespace; want that only releases elsewhere have it")
	}
}

func TestMistypedValuesAreRefused(t *testing.T) {
	t.Parallel()
	chart := testChart(t)
	for _, test := range []struct{ set, want string }{
		{"imge.tag=v1", "additional properties 'imge' not allowed"},
		{"image.tga=v1", "additional properties 'tga' not allowed"},
		{"image.tag=", "at '/image/tag'"},
		{"image.digest=0a0a", "at '/image/digest'"},
		{"apiserver.replicas=two", "at '/apiserver/replicas': got string, want integer"},
		{"apiserver.replicas=0", "at '/apiserver/replicas'"},
		{"apiserver.extraArgs={v=2}", "at '/apiserver/extraArgs/0'"},
		{"etcd.mode=HA", "at '/etcd/mode': value must be one of 'internal', 'ha', 'ephemeral', 'external'"},
		{"etcd.mode=external", "at '/etcd/external/servers': minItems"},
		{"etcd.external.servers={http://etcd:2379}", "at '/etcd/external/servers/0'"},
		{"archive.url=leat-archive", "at '/archive/url'"},
		{"certificates.issuer=certmanager", "at '/certificates/issuer': value must be one of 'leat', 'cert-manager'"},
		{"monitoring=true", "at '/monitoring': value must be one of 'none', 'metrics', 'prometheus-operator'"},
	} {
		t.Run(test.set, func(t *testing.T) {
			t.Parallel()
			out, err := helm(t, "template", "leat", chart, "--set="+test.set)
			if err == nil || !strings.Contains(out, test.want) {
				t.Errorf("got %v: %s, want %q", err, out, test.want)
			}
		})
	}
}

func TestLintAcceptsTheChart(t *testing.T) {
	t.Parallel()
	out, err := helm(t, "lint", "--strict", testChart(t))
	if err != nil || strings.Contains(out, "[WARNING]") || strings.Contains(out, "[ERROR]") {
		t.Errorf("helm lint: %v: %s", err, out)
	}
}

func TestConditionsAreConjunctions(t *testing.T) {
	t.Parallel()
	all := combinations()
	having := func(holds func(archive, etcd, certificates, monitoring int) bool) []combination {
		var having []combination
		for _, c := range all {
			if holds(c[0], c[1], c[2], c[3]) {
				having = append(having, c)
			}
		}
		return having
	}
	for _, test := range []struct {
		name  string
		holds func(archive, etcd, certificates, monitoring int) bool
		want  string
	}{
		{"always", func(_, _, _, _ int) bool { return true }, ""},
		{"one", func(_, e, _, _ int) bool { return e == 1 }, `eq .Values.etcd.mode "ha"`},
		{"all but one", func(_, e, _, _ int) bool { return e != 3 }, `ne .Values.etcd.mode "external"`},
		{"some", func(_, e, _, _ int) bool { return e < 2 }, `has .Values.etcd.mode (list "internal" "ha")`},
		{"set", func(a, _, _, _ int) bool { return a == 1 }, `.Values.archive.url`},
		{"not set", func(a, _, _, _ int) bool { return a == 0 }, `not .Values.archive.url`},
		{"both", func(a, _, c, _ int) bool { return a == 1 && c == 0 }, `and (.Values.archive.url) (eq .Values.certificates.issuer "leat")`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got, err := conditionFor(having(test.holds), all); err != nil || got != test.want {
				t.Errorf("got %q, %v; want %q", got, err, test.want)
			}
		})
	}
	if got, err := conditionFor(having(func(a, _, c, _ int) bool { return a == 1 || c == 1 }), all); err == nil {
		t.Errorf("a disjunction: got %q, want an error", got)
	}
}
