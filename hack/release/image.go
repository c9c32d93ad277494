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
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// writeImage writes the image as a tar archive with an OCI layout, pushes it if r.push is true, and returns the digest
// of its index. It uses dir for the layout. The image has the same content as that of the Dockerfile.
func (r *release) writeImage(ctx context.Context, built []build, dir string) (string, error) {
	done := step("image")
	index, err := newIndex(r.version, built, r.created)
	if err != nil {
		return "", err
	}
	digest, err := index.Digest()
	if err != nil {
		return "", err
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return "", err
	}
	// The first annotation is that of the OCI, the second is what "ctr images import" names the image.
	if err := path.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": r.tag(),
		"io.containerd.image.name":          r.localName() + ":" + r.tag(),
	})); err != nil {
		return "", err
	}
	if err := tarDirectory(r.file("-oci.tar"), dir, r.created); err != nil {
		return "", err
	}
	done()
	if r.push {
		defer step("push %s:%s", r.repository, r.tag())()
		if err := push(ctx, index, r.repository, r.tag()); err != nil {
			return "", err
		}
	}
	return digest.String(), nil
}

// localName returns the name of the image on a node. The container runtime expands names without a registry as Docker
// does.
func (r *release) localName() string {
	if r.repository == "" {
		return "docker.io/library/leat"
	}
	return r.repository
}

// push pushes an index with its images, with the credentials of "docker login".
func push(ctx context.Context, index v1.ImageIndex, repository, tag string) error {
	reference, err := name.NewTag(repository+":"+tag, name.StrictValidation)
	if err != nil {
		return fmt.Errorf("--image=%s: %w", repository, err)
	}
	return remote.WriteIndex(reference, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain))
}

// newIndex returns an index with an image for each build for Linux.
func newIndex(version string, built []build, created time.Time) (v1.ImageIndex, error) {
	annotations := map[string]string{
		"org.opencontainers.image.title":    "leat",
		"org.opencontainers.image.version":  version,
		"org.opencontainers.image.created":  created.Format(time.RFC3339),
		"org.opencontainers.image.source":   "https://github.com/leat-dev/leat",
		"org.opencontainers.image.licenses": "Apache-2.0",
	}
	authorities, err := newLayer([]archived{{"etc/ssl/certs/ca-certificates.crt", 0o644, certificateAuthorities()}}, created)
	if err != nil {
		return nil, err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, b := range built {
		if b.os != "linux" {
			continue
		}
		image, err := newImage(b, authorities, annotations, created)
		if err != nil {
			return nil, fmt.Errorf("image for %s: %w", b.platform, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: b.os, Architecture: b.arch}},
		})
	}
	return mutate.Annotations(index, annotations).(v1.ImageIndex), nil
}

// newImage returns the image of a build: the layer with certificate authorities, and a layer with the programs.
func newImage(b build, authorities v1.Layer, labels map[string]string, created time.Time) (v1.Image, error) {
	var files []archived
	for _, program := range b.programs() {
		content, err := os.ReadFile(b.path(program))
		if err != nil {
			return nil, err
		}
		files = append(files, archived{program, 0o755, content})
	}
	programs, err := newLayer(files, created)
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if image, err = mutate.ConfigFile(image, &v1.ConfigFile{
		OS: b.os, Architecture: b.arch, Created: v1.Time{Time: created}, RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{
			User: "65532:65532", Entrypoint: []string{"/leat"}, Labels: labels,
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		},
	}); err != nil {
		return nil, err
	}
	return mutate.Append(image,
		mutate.Addendum{Layer: authorities, History: v1.History{Created: v1.Time{Time: created}, Comment: "certificate authorities"}},
		mutate.Addendum{Layer: programs, History: v1.History{Created: v1.Time{Time: created}, Comment: "programs"}})
}

// newLayer returns a layer with the files.
func newLayer(files []archived, created time.Time) (v1.Layer, error) {
	var content bytes.Buffer
	if err := writeTar(&content, files, created); err != nil {
		return nil, err
	}
	opener := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content.Bytes())), nil }
	return tarball.LayerFromOpener(opener, tarball.WithMediaType(types.OCILayer),
		tarball.WithCompressionLevel(gzip.DefaultCompression), tarball.WithCompressedCaching)
}

// certificateAuthorities returns the public certificate authorities of Mozilla in PEM. It omits those that Mozilla
// trusts only for certificates before some date, because a PEM file cannot state such a limit.
func certificateAuthorities() []byte {
	var text bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			text.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}))
		}
	}
	return text.Bytes()
}

// tarDirectory writes a tar archive with the content of a directory.
func tarDirectory(path, dir string, created time.Time) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	archive := tar.NewWriter(file)
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		content, err := os.Open(path)
		if err != nil {
			return err
		}
		defer content.Close()
		info, err := content.Stat()
		if err != nil {
			return err
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: filepath.ToSlash(name), Mode: 0o644, Size: info.Size(), ModTime: created}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		_, err = io.Copy(archive, content)
		return err
	})
	if err != nil {
		return err
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return file.Close()
}
