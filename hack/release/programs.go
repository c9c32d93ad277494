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
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// servers are the programs that need Linux. The program "leat" runs everywhere.
var servers = []string{"leat-apiserver", "leat-controller-manager", "leat-worker"}

// platform is an operating system and an architecture, as in GOOS and GOARCH.
type platform struct{ os, arch string }

func (p platform) String() string { return p.os + "/" + p.arch }

// programs returns the names of the programs for the platform.
func (p platform) programs() []string {
	if p.os != "linux" {
		return []string{"leat"}
	}
	return append([]string{"leat"}, servers...)
}

// suffix returns the suffix of programs of the platform.
func (p platform) suffix() string {
	if p.os == "windows" {
		return ".exe"
	}
	return ""
}

func parsePlatform(text string) (platform, error) {
	os, arch, _ := strings.Cut(text, "/")
	p := platform{os, arch}
	if !slices.Contains([]string{"linux", "darwin", "windows"}, os) || !slices.Contains([]string{"amd64", "arm64"}, arch) {
		return p, fmt.Errorf("%s: must be linux, darwin or windows, a slash, and amd64 or arm64", text)
	}
	return p, nil
}

// build is the programs of a platform.
type build struct {
	platform
	dir string
}

// path returns the path of a program.
func (b build) path(program string) string { return filepath.Join(b.dir, program+b.suffix()) }

// buildPrograms builds the programs of all platforms in subdirectories of dir.
func (r *release) buildPrograms(ctx context.Context, dir string) ([]build, error) {
	var built []build
	for _, p := range r.platforms {
		b := build{p, filepath.Join(dir, p.os+"-"+p.arch)}
		if err := buildProgram(ctx, r.source, r.version, b, p.programs()...); err != nil {
			return nil, err
		}
		built = append(built, b)
	}
	return built, nil
}

// buildProgram builds programs of a source tree. The bytes depend only on the sources, the version and the toolchain,
// not on the path of the tree, its commit or the environment.
func buildProgram(ctx context.Context, source, version string, b build, programs ...string) error {
	defer step("build for %s", b.platform)()
	args := []string{"build", "-trimpath", "-buildvcs=false", "-pgo=hack/default.pgo",
		"-ldflags=-s -w -X k8s.io/component-base/version.gitVersion=" + version, "-o", b.dir + string(filepath.Separator)}
	for _, program := range programs {
		args = append(args, "./cmd/"+program)
	}
	command := exec.CommandContext(ctx, "go", args...)
	command.Dir = source
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+b.os, "GOARCH="+b.arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=", "GOEXPERIMENT=", "GOWORK=off")
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	if err := command.Run(); err != nil {
		return fmt.Errorf("build %s for %s: %w", strings.Join(programs, ", "), b.platform, err)
	}
	return nil
}

// archived is a file in an archive.
type archived struct {
	name    string
	mode    int64
	content []byte
}

// writeArchives writes an archive with the programs and the license for each platform.
func (r *release) writeArchives(built []build) error {
	defer step("archives")()
	license, err := os.ReadFile(filepath.Join(r.source, "LICENSE"))
	if err != nil {
		return err
	}
	for _, b := range built {
		files := []archived{{"LICENSE", 0o644, license}}
		for _, program := range b.programs() {
			content, err := os.ReadFile(b.path(program))
			if err != nil {
				return err
			}
			files = append(files, archived{filepath.Base(b.path(program)), 0o755, content})
		}
		var archive bytes.Buffer
		write, suffix := writeTarball, ".tar.gz"
		if b.os == "windows" {
			write, suffix = writeZip, ".zip"
		}
		if err := write(&archive, files, r.created); err != nil {
			return err
		}
		if err := os.WriteFile(r.file("-"+b.os+"-"+b.arch+suffix), archive.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// writeTarball writes a gzip-compressed tar archive whose bytes depend on the arguments only.
func writeTarball(w io.Writer, files []archived, created time.Time) error {
	compressed := gzip.NewWriter(w)
	if err := writeTar(compressed, files, created); err != nil {
		return err
	}
	return compressed.Close()
}

// writeTar writes a tar archive whose bytes depend on the arguments only.
func writeTar(w io.Writer, files []archived, created time.Time) error {
	archive := tar.NewWriter(w)
	for _, file := range files {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: file.name, Mode: file.mode, Size: int64(len(file.content)), ModTime: created}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := archive.Write(file.content); err != nil {
			return err
		}
	}
	return archive.Close()
}

// writeZip writes a zip archive whose bytes depend on the arguments only.
func writeZip(w io.Writer, files []archived, created time.Time) error {
	archive := zip.NewWriter(w)
	for _, file := range files {
		header := &zip.FileHeader{Name: file.name, Method: zip.Deflate, Modified: created}
		header.SetMode(os.FileMode(file.mode))
		entry, err := archive.CreateHeader(header)
		if err != nil {
			return err
		}
		if _, err := entry.Write(file.content); err != nil {
			return err
		}
	}
	return archive.Close()
}
