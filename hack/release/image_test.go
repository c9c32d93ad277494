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
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// testBuilds returns builds whose programs have their names and platforms as content.
func testBuilds(t *testing.T, platforms ...platform) []build {
	t.Helper()
	var built []build
	for _, p := range platforms {
		b := build{p, t.TempDir()}
		for _, program := range p.programs() {
			if err := os.WriteFile(b.path(program), []byte(program+" for "+p.String()), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		built = append(built, b)
	}
	return built
}

var testPlatforms = []platform{{"linux", "amd64"}, {"linux", "arm64"}, {"windows", "amd64"}}

// layerFiles returns the files of the layers of an image.
func layerFiles(t *testing.T, image v1.Image) map[string][]byte {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, layer := range layers {
		content, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(content)
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range readTar(t, bytes.NewReader(text)) {
			files[name] = content
		}
	}
	return files
}

func TestImageHasTheContentOfTheDockerfile(t *testing.T) {
	t.Parallel()
	index, err := newIndex("v0.1.0", testBuilds(t, testPlatforms...), time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if manifest.MediaType != types.OCIImageIndex || len(manifest.Manifests) != 2 {
		t.Fatalf("the index is %+v, want one of the OCI with the two platforms with Linux", manifest)
	}
	for i, want := range testPlatforms[:2] {
		descriptor := manifest.Manifests[i]
		if got := descriptor.Platform.String(); got != want.String() {
			t.Errorf("platform of manifest %d: got %s, want %s", i, got, want)
		}
		image, err := index.Image(descriptor.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Architecture != want.arch || config.Config.User != "65532:65532" || !cmp.Equal(config.Config.Entrypoint, []string{"/leat"}) {
			t.Errorf("the configuration for %s is %+v", want, config)
		}
		files := layerFiles(t, image)
		for _, program := range want.programs() {
			if got := string(files[program]); got != program+" for "+want.String() {
				t.Errorf("/%s for %s is %q", program, want, got)
			}
		}
		if len(files) != len(want.programs())+1 || !x509.NewCertPool().AppendCertsFromPEM(files["etc/ssl/certs/ca-certificates.crt"]) {
			t.Errorf("the image for %s has %d files, want the programs and certificate authorities", want, len(files))
		}
	}
}

func TestCertificateAuthoritiesAreComplete(t *testing.T) {
	t.Parallel()
	count := 0
	for rest := certificateAuthorities(); ; count++ {
		block, next := pem.Decode(rest)
		if block == nil {
			break
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			t.Error(err)
		}
		rest = next
	}
	if count < 80 {
		t.Errorf("got %d authorities, want those of Mozilla, more than 80", count)
	}
}

func TestPushKeepsTheDigest(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	repository := strings.TrimPrefix(server.URL, "http://") + "/team/leat"
	r := &release{dist: t.TempDir(), version: "v0.1.0+abc", repository: repository, push: true, created: time.Unix(1, 0)}
	digest, err := r.writeImage(t.Context(), testBuilds(t, testPlatforms...), filepath.Join(t.TempDir(), "oci"))
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(repository + ":v0.1.0-abc")
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := remote.Index(tag)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := pushed.Digest(); err != nil || got.String() != digest {
		t.Errorf("digest in the registry: got %s, %v; want %s", got, err, digest)
	}
	if err := validate.Index(pushed); err != nil {
		t.Error(err)
	}
}
