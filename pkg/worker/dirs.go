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

package worker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// sparePrefix begins the names of directories that no attempt has.
	sparePrefix = "spare-"
	// stoppingFile is in the directory of a worker process that stops in order.
	stoppingFile = "stopping"
	// spaceProbe is how many bytes must fit on a disk that is not full.
	spaceProbe = 4 << 10
)

// dirs are empty directories in a common parent, each for one attempt at a time and named after it. So they also
// record, for the next process of the worker, which attempts this one had begun when it was killed. They are used
// again: on most file systems that is much cheaper than another one for each attempt. If somebody removes them, or the
// parent, later attempts make them again. Safe for concurrent use.
type dirs struct {
	parent string

	mu   sync.Mutex
	lock *os.File // the parent, locked as long as this process lives
	free []string
	made int
}

// newDirs creates the parent, and what lacks above it.
func newDirs(parent string) (*dirs, error) {
	d := &dirs{parent: parent}
	return d, d.create()
}

// create creates the parent and locks it.
func (d *dirs) create() error {
	if err := os.MkdirAll(d.parent, 0o700); err != nil {
		return err
	}
	lock, err := os.Open(d.parent)
	if err != nil {
		return err
	}
	if d.lock != nil {
		_ = d.lock.Close()
	}
	d.lock = lock
	// Where nothing can be locked, as on some network file systems, the next process removes nothing and learns
	// nothing.
	_ = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	return nil
}

// remove removes all directories. All attempts must have ended.
func (d *dirs) remove() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := os.RemoveAll(d.parent)
	return errors.Join(err, d.lock.Close())
}

// take returns an empty directory for the attempt.
func (d *dirs) take(attempt string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir := filepath.Join(d.parent, attempt)
	for len(d.free) > 0 {
		spare := d.free[len(d.free)-1]
		d.free = d.free[:len(d.free)-1]
		if err := os.Rename(spare, dir); err == nil {
			return dir, nil
		} else if shortage(err) != "" {
			d.free = append(d.free, spare)
			return "", err
		}
	}
	return dir, d.mkdir(dir)
}

// mkdir creates a directory in the parent, and the parent if it was removed. It must be called with the lock.
func (d *dirs) mkdir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err = d.create(); err == nil {
			err = os.Mkdir(dir, 0o700)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// restore creates a directory that an attempt has again if it was removed.
func (d *dirs) restore(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mkdir(dir)
}

// giveBack makes a directory free, empty again.
func (d *dirs) giveBack(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		// All that was done to it is gone with it.
		_ = os.RemoveAll(dir)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.made++
	spare := filepath.Join(d.parent, fmt.Sprint(sparePrefix, d.made))
	if os.Rename(dir, spare) == nil {
		d.free = append(d.free, spare)
	}
}

// stopping records that attempts that this process does not end were not begun by one that crashed.
func (d *dirs) stopping() error {
	return os.WriteFile(filepath.Join(d.parent, stoppingFile), nil, 0o600)
}

// spaceLeft returns an error while the disk is full.
func (d *dirs) spaceLeft() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	probe := filepath.Join(d.parent, sparePrefix+"probe")
	err := os.WriteFile(probe, make([]byte, spaceProbe), 0o600)
	_ = os.Remove(probe)
	if shortage(err) == "" {
		return nil
	}
	return err
}

// removeDirs removes the directories in parent of worker processes that have ended. It adds to begun, by incarnation,
// which attempts those had begun and not ended that were of the worker with the prefix.
func removeDirs(parent, prefix string, begun map[string]map[types.UID]bool) error {
	found, err := filepath.Glob(filepath.Join(parent, "leat-*-*-*-*.*"))
	errs := []error{err}
	for _, dir := range found {
		name := filepath.Base(dir)
		by, incarnation, _ := strings.Cut(name[min(len(prefix)+1, len(name)):], ".")
		own := strings.HasPrefix(name, prefix+"-")
		ended, err := abandoned(dir, by)
		switch {
		case err != nil:
			errs = append(errs, err)
			continue
		case !ended && own:
			begun[incarnation] = nil // it was replaced, and has not crashed
			continue
		case !ended:
			continue
		case own:
			begun[incarnation] = attemptsIn(dir)
		}
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// abandoned reports whether the owner of a directory has ended: it is not seen to be alive, and has the directory not
// locked. The lock tells it from outside of the owner's PID namespace, too, as when a container was restarted.
func abandoned(dir, by string) (bool, error) {
	if o, ok := parseOwner(by); !ok || o.visible() && !ended(by) {
		return false, nil
	}
	file, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer file.Close()
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// attemptsIn returns the tasks whose attempts have a directory in that of a worker process, none if it has stopped in
// order.
func attemptsIn(dir string) map[types.UID]bool {
	entries, _ := os.ReadDir(dir)
	tasks := map[types.UID]bool{}
	for _, entry := range entries {
		i := strings.LastIndexByte(entry.Name(), '-')
		switch {
		case entry.Name() == stoppingFile:
			return nil
		case i > 0 && entry.IsDir() && !strings.HasPrefix(entry.Name(), sparePrefix):
			tasks[types.UID(entry.Name()[:i])] = true
		}
	}
	return tasks
}
