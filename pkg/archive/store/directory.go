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
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// temporary begins the names of files that Put has not finished. No key has such a part.
	temporary = ".put-"
	// unused is how old temporary files and empty directories are when Prune removes them. No Put takes that long.
	unused = time.Hour
	// putAttempts limits how often Put creates directories that Prune removes at the same time.
	putAttempts = 5
)

// Directory is a Store in a directory. Several processes may use it, on several machines if the file system has hard
// links and is shared. Below the directory, symbolic links are not followed.
type Directory struct {
	path string
}

// NewDirectory returns the store in the directory of an absolute path. The directory is created when it is used first.
// Its parent must exist then: if the parent is the mount point of a volume that is not mounted, nothing is written
// beside it.
func NewDirectory(path string) *Directory {
	return &Directory{path: path}
}

// Put implements Store. A crash leaves the whole object or none.
func (d *Directory) Put(ctx context.Context, key string, body []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	root, err := d.open()
	if err != nil {
		return err
	}
	defer root.Close()
	if err := checkParents(root, key); err != nil {
		return d.translate(err)
	}
	for attempt := 1; ; attempt++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := put(root, key, body)
		// Prune has removed the empty directory of the key.
		if errors.Is(err, fs.ErrNotExist) && attempt < putAttempts {
			continue
		}
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s: %w", key, ErrExists)
		}
		return d.translate(err)
	}
}

// put stores an object. It returns fs.ErrExist if the key exists, and fs.ErrNotExist if the directory of the key was
// removed in the meantime.
func put(root *os.Root, key string, body []byte) error {
	dir := path.Dir(key)
	if _, err := root.Lstat(key); err == nil {
		return exists(root, dir)
	}
	if err := makeDirs(root, dir); err != nil {
		return err
	}
	name := path.Join(dir, temporary+rand.Text())
	defer root.Remove(name) // after an error, Prune removes it
	if err := write(root, name, body); err != nil {
		return err
	}
	// Unlike a rename, a link never replaces what another process has stored since Lstat.
	err := root.Link(name, key)
	switch {
	case err == nil:
		return syncDir(root, dir)
	case errors.Is(err, fs.ErrExist):
		return exists(root, dir)
	case errors.Is(err, fs.ErrNotExist):
		return err
	default:
		return fmt.Errorf("the file system must have hard links: %w", err)
	}
}

// exists returns fs.ErrExist once the entry of a file in its directory is durable. Another process may have stored the
// file, but not yet have synced the directory.
func exists(root *os.Root, dir string) error {
	if err := syncDir(root, dir); err != nil {
		return err
	}
	return fs.ErrExist
}

func write(root *os.Root, name string, body []byte) error {
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(body)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// makeDirs creates a directory and its parents durably.
func makeDirs(root *os.Root, dir string) error {
	if info, err := root.Lstat(dir); err == nil && info.IsDir() {
		return nil
	}
	for _, parent := range parents(dir + "/") {
		err := root.Mkdir(parent, 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = syncDir(root, path.Dir(parent))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func syncDir(root *os.Root, dir string) error {
	file, err := root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// List implements Store.
func (d *Directory) List(ctx context.Context, prefix string) ([]Object, error) {
	if err := checkPrefix(prefix); err != nil {
		return nil, err
	}
	root, err := d.open()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := checkParents(root, prefix); err != nil {
		return nil, d.translate(err)
	}
	var objects []Object
	err = walk(ctx, root, prefix, func(key string, info fs.FileInfo) {
		if info.Mode().IsRegular() && isKey(key) {
			objects = append(objects, Object{Key: key, Size: info.Size()})
		}
	})
	if err != nil {
		return nil, d.translate(err)
	}
	// The walk visits the directory "a" with "a/b" before the file "a-b", which is the first of the two keys.
	slices.SortFunc(objects, func(a, b Object) int { return cmp.Compare(a.Key, b.Key) })
	return objects, nil
}

// ReadAt implements Store.
func (d *Directory) ReadAt(ctx context.Context, key string, offset, length int64) ([]byte, error) {
	if err := errors.Join(checkKey(key), checkRange(offset, length)); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	root, err := d.open()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	body, err := readAt(root, key, offset, length)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", key, ErrNotFound)
	}
	return body, d.translate(err)
}

func readAt(root *os.Root, key string, offset, length int64) ([]byte, error) {
	if err := checkParents(root, key+"/"); err != nil {
		return nil, err
	}
	// The type is checked before Open, which waits for the writer of a pipe.
	info, err := root.Lstat(key)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fs.ErrNotExist
	}
	file, err := root.Open(key)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	body := make([]byte, max(0, min(length, info.Size()-offset)))
	n, err := file.ReadAt(body, offset)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return body[:n], err
}

// Prune removes the objects that were stored before a time, and returns their number. It also removes temporary files
// that a killed process has left, and directories that have been empty for an hour. It removes nothing else. Prune is
// safe beside all other methods, and beside Prune of another process.
func (d *Directory) Prune(ctx context.Context, before time.Time) (int, error) {
	root, err := d.open()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	var removed int
	var failure error // the first one
	remove := func(name string) bool {
		err := root.Remove(name)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return err == nil
		}
		failure = cmp.Or(failure, err)
		return false
	}
	old := time.Now().Add(-unused)
	var dirs []string
	err = walk(ctx, root, "", func(name string, info fs.FileInfo) {
		switch {
		case info.IsDir():
			if info.ModTime().Before(old) {
				dirs = append(dirs, name)
			}
		case !info.Mode().IsRegular():
		case isKey(name):
			if info.ModTime().Before(before) && remove(name) {
				removed++
			}
		case strings.HasPrefix(path.Base(name), temporary):
			if info.ModTime().Before(old) {
				remove(name)
			}
		}
	})
	// A directory comes after its parent in the walk. A directory that Put has created for its object is never old, and
	// one that is not empty is not removed.
	for _, dir := range slices.Backward(dirs) {
		_ = root.Remove(dir)
	}
	return removed, d.translate(cmp.Or(err, failure))
}

// walk calls visit for all files and directories below the root whose names begin with a prefix, and does not follow
// symbolic links. What disappears in the meantime is left out.
func walk(ctx context.Context, root *os.Root, prefix string, visit func(name string, info fs.FileInfo)) error {
	start := path.Dir(prefix + "x") // the directory that all of these names have in common
	return fs.WalkDir(root.FS(), start, func(name string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if name == start {
			return nil
		}
		if !strings.HasPrefix(name, prefix) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		visit(name, info)
		return nil
	})
}

// open returns the directory, which is opened for each call: a volume may be unmounted and mounted while the process
// runs.
func (d *Directory) open() (*os.Root, error) {
	root, err := os.OpenRoot(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Mkdir(d.path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, d.translate(err)
		}
		root, err = os.OpenRoot(d.path)
	}
	return root, d.translate(err)
}

// checkParents returns an error if a directory of a key is not a directory. os.Root does not leave the store, but
// follows symbolic links that stay in it, as to the directory of another namespace.
func checkParents(root *os.Root, key string) error {
	for _, parent := range parents(key) {
		info, err := root.Lstat(parent)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if info.Mode().Type() == fs.ModeSymlink {
			return fmt.Errorf("%s is a symbolic link: it must be a directory", parent)
		}
	}
	return nil
}

// parents returns the directories of a key, the outermost first.
func parents(key string) []string {
	var dirs []string
	for i, c := range key {
		if c == '/' {
			dirs = append(dirs, key[:i])
		}
	}
	return dirs
}

// translate returns the error of a Store for one of the file system, nil for nil.
func (d *Directory) translate(err error) error {
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return unavailable("the file system of %s is full: %w", d.path, err)
	default:
		return unavailable("%s: %w", d.path, err)
	}
}
