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

// The release command writes the files of a release into a directory: programs, an image for all architectures, the
// manifest install.yaml, a Helm chart, a software bill of materials and checksums. The same sources, version and Go
// toolchain result in the same bytes. "make release" runs it.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/pflag"
)

// release is what a run of the command writes.
type release struct {
	// source is the root of the repository.
	source string
	// dist is the directory of the files.
	dist string
	// version is the version of Leat, such as v0.1.0.
	version string
	// repository is the repository of the image in a registry. If it is empty, manifests name the image leat:VERSION,
	// which each node must have.
	repository string
	platforms  []platform
	// manifestsOnly skips programs and images, so that manifests name the image by its tag only.
	manifestsOnly bool
	push          bool
	// created is the time of everything in the release that has a time.
	created time.Time
}

// versionPattern is what semver.org calls valid, with the "v" of Go's versions.
var versionPattern = regexp.MustCompile(`^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

func main() {
	log.SetFlags(0)
	log.SetPrefix("release: ")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r, err := parse(os.Args[1:])
	if errors.Is(err, pflag.ErrHelp) {
		return
	}
	if err == nil {
		err = r.run(ctx)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// parse returns the release that the arguments describe.
func parse(args []string) (*release, error) {
	r := &release{}
	var platforms []string
	flags := pflag.NewFlagSet("release", pflag.ContinueOnError)
	flags.StringVar(&r.source, "source", "../..", "Root of the repository")
	flags.StringVar(&r.dist, "dist", "../../dist", "Directory for the files, which must be empty")
	flags.StringVar(&r.version, "version", "", "Version, such as v0.1.0")
	flags.StringVar(&r.repository, "image", "", "Repository of the image, such as registry.example.com/leat. By default the image is leat:VERSION, without a registry.")
	flags.StringSliceVar(&platforms, "platforms", []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64", "windows/amd64"}, "Platforms of the programs. The image is for those with Linux.")
	flags.BoolVar(&r.manifestsOnly, "manifests-only", false, "Write only install.yaml and the chart, without building programs and the image")
	flags.BoolVar(&r.push, "push", false, "Push the image to the registry of --image")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	switch {
	case flags.NArg() > 0:
		return nil, fmt.Errorf("unexpected arguments %q: this command has flags only", flags.Args())
	case !versionPattern.MatchString(r.version):
		return nil, fmt.Errorf("--version=%s: must be a semantic version with a leading v, such as v0.1.0", r.version)
	case r.push && r.repository == "":
		return nil, errors.New("--push: requires --image with a repository to push to, such as registry.example.com/leat")
	case r.push && r.manifestsOnly:
		return nil, errors.New("--push: may not be used with --manifests-only, which builds no image")
	}
	if r.repository != "" {
		if _, err := name.NewRepository(r.repository, name.StrictValidation); err != nil {
			return nil, fmt.Errorf("--image=%s: must be a repository without a tag, such as registry.example.com/leat: %w", r.repository, err)
		}
	}
	for _, text := range platforms {
		p, err := parsePlatform(text)
		if err != nil {
			return nil, fmt.Errorf("--platforms: %w", err)
		}
		r.platforms = append(r.platforms, p)
	}
	return r, nil
}

// run writes all files.
func (r *release) run(ctx context.Context) error {
	var err error
	if r.created, err = sourceTime(ctx, r.source); err != nil {
		return err
	}
	if err := os.MkdirAll(r.dist, 0o755); err != nil {
		return err
	}
	if entries, err := os.ReadDir(r.dist); err != nil {
		return err
	} else if len(entries) > 0 {
		return fmt.Errorf("--dist=%s: must be empty, so that it has only files of this release; it has %s", r.dist, entries[0].Name())
	}
	if r.manifestsOnly {
		return r.writeManifests("")
	}
	work, err := os.MkdirTemp("", "leat-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)

	built, err := r.buildPrograms(ctx, work)
	if err != nil {
		return err
	}
	if err := r.writeArchives(built); err != nil {
		return err
	}
	digest, err := r.writeImage(ctx, built, filepath.Join(work, "oci"))
	if err != nil {
		return err
	}
	if err := r.writeManifests(digest); err != nil {
		return err
	}
	if err := r.writeBOM(built); err != nil {
		return err
	}
	return writeSums(r.dist)
}

// tag returns the tag of the image. A tag cannot have the "+" that a version may have.
func (r *release) tag() string { return strings.ReplaceAll(r.version, "+", "-") }

// imageName returns the name of the image without tag and digest.
func (r *release) imageName() string {
	if r.repository == "" {
		return "leat"
	}
	return r.repository
}

// file returns the path of a file of the release whose name ends with the suffix.
func (r *release) file(suffix string) string {
	return filepath.Join(r.dist, "leat-"+r.version+suffix)
}

// step logs the start of a step, and the returned function its duration.
func step(format string, args ...any) func() {
	text, start := fmt.Sprintf(format, args...), time.Now()
	return func() { log.Printf("%s: %.1f s", text, time.Since(start).Seconds()) }
}

// sourceTime returns the time of the last commit of the repository, or that of SOURCE_DATE_EPOCH if it is set:
// https://reproducible-builds.org/specs/source-date-epoch.
func sourceTime(ctx context.Context, source string) (time.Time, error) {
	const variable = "SOURCE_DATE_EPOCH"
	text := os.Getenv(variable)
	if text == "" {
		git := exec.CommandContext(ctx, "git", "-C", source, "log", "-1", "--format=%ct")
		git.Stderr = os.Stderr
		out, err := git.Output()
		if err != nil {
			return time.Time{}, fmt.Errorf("get the time of the last commit: %w: outside of a clone, set %s to the seconds since 1970", err, variable)
		}
		text = strings.TrimSpace(string(out))
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s=%s: must be the seconds since 1970", variable, text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
