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
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// readTar returns the regular files of a tar archive.
func readTar(t *testing.T, from io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for archive := tar.NewReader(from); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[header.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRelease makes a release for the platform of the test.
func TestRelease(t *testing.T) {
	t.Parallel()
	const version, image = "v0.1.0-rc.1+test", "registry.example.com/leat"
	dist := filepath.Join(t.TempDir(), "dist")
	r, err := parse([]string{"--source=" + repository, "--dist=" + dist, "--version=" + version, "--image=" + image, "--platforms=linux/" + runtime.GOARCH})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.run(t.Context()); err != nil {
		t.Fatal(err)
	}

	t.Run("there are these files only", func(t *testing.T) {
		var files []string
		entries, err := os.ReadDir(dist)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			files = append(files, strings.ReplaceAll(entry.Name(), version, "VERSION"))
		}
		want := []string{"SHA256SUMS", "install.yaml", "leat-VERSION-linux-" + runtime.GOARCH + ".tar.gz", "leat-VERSION-oci.tar", "leat-VERSION.cdx.json", "leat-VERSION.tgz"}
		if diff := cmp.Diff(want, files); diff != "" {
			t.Errorf("files (-want +got):\n%s", diff)
		}
	})
	t.Run("checksums are right", func(t *testing.T) {
		check := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", sumsFile)
		check.Dir = dist
		out, err := check.CombinedOutput()
		if err != nil || strings.Count(string(out), ": OK\n") != 5 {
			t.Errorf("sha256sum: %v: %s", err, out)
		}
	})

	file, err := os.Open(r.file("-oci.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	oci := t.TempDir()
	for name, content := range readTar(t, file) {
		if err := os.MkdirAll(filepath.Join(oci, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(oci, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	images, err := layout.ImageIndexFromPath(oci)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := images.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("the layout has %+v, %v; want one index", manifest, err)
	}
	descriptor := manifest.Manifests[0]

	t.Run("manifests and chart name the image of the layout by its digest", func(t *testing.T) {
		want := "image: " + image + ":v0.1.0-rc.1-test@" + descriptor.Digest.String() + "\n"
		text, err := os.ReadFile(filepath.Join(dist, "install.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(string(text), want); got != 3 {
			t.Errorf("install.yaml has %d times %q, want 3: in both Deployments and the CronJob for backups", got, want)
		}
		rendered, err := helm(t, "template", "leat", r.file(".tgz"), "--namespace=default")
		if err != nil {
			t.Fatal(err, rendered)
		}
		if got := strings.Count(rendered, want); got != 3 {
			t.Errorf("the chart has %d times %q, want 3", got, want)
		}
	})
	t.Run("the program in the image starts", func(t *testing.T) {
		index, err := images.ImageIndex(descriptor.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Index(index); err != nil {
			t.Error(err)
		}
		manifest, err := index.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		image, err := index.Image(manifest.Manifests[0].Digest)
		if err != nil {
			t.Fatal(err)
		}
		checkVersion(t, layerFiles(t, image)["leat"], version)
	})
	t.Run("the program in the archive starts", func(t *testing.T) {
		file, err := os.Open(r.file("-linux-" + runtime.GOARCH + ".tar.gz"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		uncompressed, err := gzip.NewReader(file)
		if err != nil {
			t.Fatal(err)
		}
		checkVersion(t, readTar(t, uncompressed)["leat"], version)
	})
	t.Run("the bill of materials is valid", func(t *testing.T) {
		text, err := os.ReadFile(r.file(".cdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		validateBOM(t, text)
		for _, want := range []string{`"pkg:golang/k8s.io/apiserver@v`, `"pkg:golang/std@go1.`, `"linux/` + runtime.GOARCH + `/leat-worker"`} {
			if !strings.Contains(string(text), want) {
				t.Errorf("the bill has no %s", want)
			}
		}
	})
}

// checkVersion runs a program leat and checks its version.
func checkVersion(t *testing.T, program []byte, want string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "leat")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), path, "version", "--client")
	command.Env = []string{"HOME=" + t.TempDir()}
	out, err := command.CombinedOutput()
	if err != nil || string(out) != "Client Version: "+want+"\n" {
		t.Errorf("leat version: %v: %s, want %s", err, out, want)
	}
}

// validateBOM checks a document with the schema of CycloneDX 1.6, which is part of the source of the library.
func validateBOM(t *testing.T, text []byte) {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-m", "-f={{.Dir}}", "github.com/CycloneDX/cyclonedx-go")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	for _, name := range []string{"bom-1.6.schema.json", "spdx.schema.json", "jsf-0.82.schemax.json"} {
		schema, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "schema", name))
		if err != nil {
			t.Fatal(err)
		}
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
		if err != nil {
			t.Fatal(err)
		}
		id := "http://cyclonedx.org/schema/" + strings.ReplaceAll(name, "schemax", "schema")
		if err := compiler.AddResource(id, document); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := compiler.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var bom any
	if err := json.Unmarshal(text, &bom); err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(bom); err != nil {
		t.Error(err)
	}
}

// TestProgramsAreReproducible builds a program from a copy of the sources in another directory. The copy shares the
// build cache, so the test is cheap: it finds paths and times in what is linked, but no compiler that is not
// deterministic.
func TestProgramsAreReproducible(t *testing.T) {
	t.Parallel()
	copied := t.TempDir()
	list := exec.CommandContext(t.Context(), "git", "-C", repository, "ls-files", "-z", "--", "go.mod", "go.sum", "*.go", "hack/default.pgo", "apis", "cmd", "config", "pkg")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join(repository, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(copied, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(copied, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var sums []string
	for _, source := range []string{repository, copied} {
		b := build{platform{"linux", runtime.GOARCH}, t.TempDir()}
		if err := buildProgram(t.Context(), source, "v0.1.0", b, "leat-worker"); err != nil {
			t.Fatal(err)
		}
		sum, err := fileSum(b.path("leat-worker"))
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, sum)
	}
	if sums[0] != sums[1] {
		t.Errorf("two builds of leat-worker have the sums %s", sums)
	}
}

func TestArchivesAreReproducible(t *testing.T) {
	t.Parallel()
	built := testBuilds(t, testPlatforms...)
	var sums [2]string
	for i := range sums {
		r := &release{source: repository, dist: t.TempDir(), version: "v0.1.0"}
		if err := r.writeArchives(built); err != nil {
			t.Fatal(err)
		}
		if _, err := r.writeImage(t.Context(), built, filepath.Join(t.TempDir(), "oci")); err != nil {
			t.Fatal(err)
		}
		if err := r.writeManifests(""); err != nil {
			t.Fatal(err)
		}
		if err := writeSums(r.dist); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(r.dist, sumsFile))
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = string(text)
	}
	if diff := cmp.Diff(sums[0], sums[1]); diff != "" {
		t.Errorf("sums of the first and of the second release (-first +second):\n%s", diff)
	}
}

func TestFlagsAreChecked(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "--version=: must be a semantic version"},
		{[]string{"--version=0.1.0"}, "--version=0.1.0: must be a semantic version with a leading v"},
		{[]string{"--version=v0.1"}, "--version=v0.1: must be a semantic version"},
		{[]string{"--version=v0.1.0", "now"}, "unexpected arguments"},
		{[]string{"--version=v0.1.0", "--image=registry.example.com/leat:v0.1.0"}, "--image=registry.example.com/leat:v0.1.0: must be a repository without a tag"},
		{[]string{"--version=v0.1.0", "--push"}, "--push: requires --image"},
		{[]string{"--version=v0.1.0", "--push", "--image=registry.example.com/leat", "--manifests-only"}, "--push: may not be used with --manifests-only"},
		{[]string{"--version=v0.1.0", "--platforms=linux/riscv64"}, "--platforms: linux/riscv64: must be linux, darwin or windows"},
	} {
		if _, err := parse(test.args); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("parse(%q): got %v, want %q", test.args, err, test.want)
		}
	}
	r, err := parse([]string{"--version=v0.1.0-dev+abc"})
	if err != nil || len(r.platforms) != 5 || !slices.Contains(r.platforms, platform{"windows", "amd64"}) {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestFilesOfAnotherReleaseAreRefused(t *testing.T) {
	t.Parallel()
	dist := t.TempDir()
	if err := os.WriteFile(filepath.Join(dist, "leat-v0.0.9.tgz"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := &release{source: repository, dist: dist, version: "v0.1.0", manifestsOnly: true}
	if err := r.run(t.Context()); err == nil || !strings.Contains(err.Error(), "must be empty") {
		t.Errorf("got %v, want that the directory must be empty", err)
	}
}
