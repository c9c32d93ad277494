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

package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// files returns the paths of all files and directories below a directory.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if path != dir {
			found = append(found, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// age sets the time at which a file was changed.
func age(t *testing.T, path string, age time.Duration) {
	t.Helper()
	then := time.Now().Add(-age)
	if err := os.Chtimes(path, then, then); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDirectoryIsCreatedBelowAnExistingParent(t *testing.T) {
	parent := t.TempDir()
	mustPut(t, NewDirectory(filepath.Join(parent, "archive")), "a/b", nil)
	// The parent may be the mount point of a volume that is not mounted.
	missing := NewDirectory(filepath.Join(parent, "volume", "archive"))
	for call, err := range calls(t.Context(), missing, "a") {
		wantUnavailable(t, call, err, "no such file or directory")
	}
	if got, want := files(t, parent), []string{"archive", "archive/a", "archive/a/b"}; !slices.Equal(got, want) {
		t.Errorf("files are %q, want %q", got, want)
	}
	must(t, os.Mkdir(filepath.Join(parent, "volume"), 0o700))
	mustPut(t, missing, "a", nil)
}

func TestDirectoryLeavesNoTemporaryFile(t *testing.T) {
	dir := t.TempDir()
	store := NewDirectory(dir)
	mustPut(t, store, "a/b", []byte("x"))
	wantError(t, "second Put", store.Put(t.Context(), "a/b", nil), ErrExists)
	if got, want := files(t, dir), []string{"a", "a/b"}; !slices.Equal(got, want) {
		t.Errorf("files are %q, want %q", got, want)
	}
}

func TestDirectoryIgnoresWhatPutHasNotStored(t *testing.T) {
	dir := t.TempDir()
	store := NewDirectory(dir)
	mustPut(t, store, "a/b", []byte("x"))
	for _, name := range []string{"a/" + temporary + "ABC", "a/.hidden", "a/with space", "lost+found"} {
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	must(t, unix.Mkfifo(filepath.Join(dir, "a", "pipe"), 0o600))
	objects, err := store.List(t.Context(), "")
	if want := []Object{{Key: "a/b", Size: 1}}; err != nil || !slices.Equal(objects, want) {
		t.Errorf("List = %v, %v, want %v", objects, err, want)
	}
	_, err = store.ReadAt(t.Context(), "a/pipe", 0, 1)
	wantError(t, "ReadAt of a pipe", err, ErrNotFound)
}

func TestDirectoryFollowsNoLinks(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	store := NewDirectory(dir)
	mustPut(t, store, "other/object", []byte("of another namespace"))
	must(t, os.WriteFile(filepath.Join(outside, "object"), []byte("outside"), 0o600))
	must(t, os.Mkdir(filepath.Join(dir, "namespace"), 0o700))
	for name, target := range map[string]string{
		"escape": outside, "inside": "other", "namespace/inside": "../other", "namespace/object": "../other/object",
	} {
		must(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	for _, key := range []string{"escape/object", "inside/object", "namespace/inside/object", "namespace/object"} {
		if body, err := store.ReadAt(t.Context(), key, 0, 100); err == nil {
			t.Errorf("ReadAt(%s) = %q", key, body)
		}
		if err := store.Put(t.Context(), key+"-new", nil); err == nil && key != "namespace/object" {
			t.Errorf("Put(%s-new) was stored", key)
		}
	}
	_, err := store.ReadAt(t.Context(), "inside/object", 0, 1)
	wantUnavailable(t, "ReadAt", err, "inside is a symbolic link: it must be a directory")
	wantError(t, "Put", store.Put(t.Context(), "namespace/object", nil), ErrExists)
	for _, prefix := range []string{"", "escape/", "inside/", "namespace/inside/"} {
		objects, _ := store.List(t.Context(), prefix)
		for _, object := range objects {
			if object.Key != "other/object" && object.Key != "namespace/object-new" {
				t.Errorf("List(%s) has %s", prefix, object.Key)
			}
		}
	}
	if _, err := store.Prune(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Error(err)
	}
	if got := files(t, outside); !slices.Equal(got, []string{"object"}) {
		t.Errorf("files outside are %q after Prune", got)
	}
}

func TestDirectoryIsFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip("needs root to mount a file system")
		}
		t.Fatal(err)
	}
	defer func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) }()
	store := NewDirectory(dir)
	mustPut(t, store, "a/small", make([]byte, 1000))
	wantUnavailable(t, "Put", store.Put(t.Context(), "a/large", make([]byte, 2<<20)), "is full")
	if got, want := files(t, dir), []string{"a", "a/small"}; !slices.Equal(got, want) {
		t.Errorf("files are %q, want %q", got, want)
	}
	mustPut(t, store, "a/second", make([]byte, 1000))
}

func TestDirectoryWithoutPermission(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write everywhere")
	}
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o500))
	wantUnavailable(t, "Put", NewDirectory(dir).Put(t.Context(), "a", nil), "permission denied")
}

func TestPruneRemovesOnlyWhatIsOld(t *testing.T) {
	const retention = 7 * 24 * time.Hour
	dir := t.TempDir()
	store := NewDirectory(dir)
	for _, key := range []string{"ns/set/old", "ns/set/new", "ns/old-set/old", "ns/fresh-set/old"} {
		mustPut(t, store, key, nil)
	}
	write := func(name string) { must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600)) }
	must(t, os.MkdirAll(filepath.Join(dir, "ns/fresh"), 0o700))
	must(t, os.MkdirAll(filepath.Join(dir, "empty/empty"), 0o700))
	must(t, os.MkdirAll(filepath.Join(dir, "lost+found"), 0o700))
	write("ns/set/" + temporary + "old")
	write("ns/set/" + temporary + "new")
	write("ns/set/.foreign")
	write("ns/set/foreign file")
	for _, name := range []string{
		"ns/set/old", "ns/old-set/old", "ns/fresh-set/old", "ns/set/" + temporary + "old", "ns/set/.foreign", "ns/set/foreign file",
		"empty/empty", "empty", "ns",
	} {
		age(t, filepath.Join(dir, name), retention+time.Hour)
	}
	age(t, filepath.Join(dir, "ns/set/new"), retention-time.Hour)

	removed, err := store.Prune(t.Context(), time.Now().Add(-retention))
	if err != nil || removed != 3 {
		t.Errorf("Prune = %d, %v, want 3 objects", removed, err)
	}
	// A directory is not removed in the hour after a change in it, as another process may be about to use it.
	want := []string{
		"lost+found", "ns", "ns/fresh", "ns/fresh-set", "ns/old-set", "ns/set", "ns/set/.foreign", "ns/set/" + temporary + "new",
		"ns/set/foreign file", "ns/set/new",
	}
	if got := files(t, dir); !slices.Equal(got, want) {
		t.Errorf("files are\n%q, want\n%q", got, want)
	}
	age(t, filepath.Join(dir, "ns/old-set"), unused+time.Minute)
	if removed, err := store.Prune(t.Context(), time.Now().Add(-retention)); err != nil || removed != 0 {
		t.Errorf("second Prune = %d, %v", removed, err)
	}
	if got, want := files(t, dir), slices.DeleteFunc(want, func(name string) bool { return name == "ns/old-set" }); !slices.Equal(got, want) {
		t.Errorf("files after the second Prune are\n%q, want\n%q", got, want)
	}
}

// Each Put finds a directory that is empty and old, which two replicas are about to remove.
func TestPruneBesidePut(t *testing.T) {
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	var pruning, putting errgroup.Group
	for range 2 {
		pruning.Go(func() error {
			for ctx.Err() == nil {
				if _, err := NewDirectory(dir).Prune(ctx, time.Now().Add(-time.Hour)); err != nil && ctx.Err() == nil {
					return err
				}
			}
			return nil
		})
	}
	const puts = 200
	for worker := range 4 {
		putting.Go(func() error {
			for i := range puts {
				set := fmt.Sprintf("ns-%d/set", worker)
				key := fmt.Sprintf("%s/%d", set, i)
				then := time.Now().Add(-2 * unused)
				for _, name := range []string{set, filepath.Dir(set)} {
					if err := os.Chtimes(filepath.Join(dir, name), then, then); err != nil && !errors.Is(err, fs.ErrNotExist) {
						return err
					}
				}
				if err := NewDirectory(dir).Put(t.Context(), key, []byte("x")); err != nil {
					return fmt.Errorf("put %s: %w", key, err)
				}
				if err := os.Remove(filepath.Join(dir, key)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := putting.Wait(); err != nil {
		t.Error(err)
	}
	stop()
	if err := pruning.Wait(); err != nil {
		t.Error(err)
	}
}

func TestPruneEndsWithItsContext(t *testing.T) {
	store := NewDirectory(t.TempDir())
	mustPut(t, store, "a", nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	removed, err := store.Prune(ctx, time.Now().Add(time.Hour))
	if removed != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("Prune = %d, %v", removed, err)
	}
}
