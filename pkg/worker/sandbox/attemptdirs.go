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

package sandbox

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

	"github.com/leat-dev/leat/pkg/worker/attempt"
	"github.com/leat-dev/leat/pkg/worker/pressure"
	"github.com/leat-dev/leat/pkg/worker/reaper"
)

const (
	// sparePrefix is the prefix of directories that are not in use.
	sparePrefix = "spare-"
	// stoppingFile marks the directory of a worker process that stops in order.
	stoppingFile = "stopping"
	// spaceProbe is how many bytes must fit on a disk that is not full.
	spaceProbe = 4 << 10
)

// attemptDirs hands out empty directories in a common parent. Each belongs to one attempt at a time and is named
// after it, so that the next process of the worker finds the attempts that were running when this one was killed.
// Directories are renamed and reused: on most file systems that is much cheaper than to create one for each attempt.
// Directories that somebody removes are created again. attemptDirs is safe for concurrent use.
type attemptDirs struct {
	parent string

	mu        sync.Mutex
	lock      *os.File // the parent, locked while this process lives
	spares    []string
	nextSpare int
}

// newAttemptDirs creates the parent and the directories above it.
func newAttemptDirs(parent string) (*attemptDirs, error) {
	d := &attemptDirs{parent: parent}
	return d, d.create()
}

// create creates the parent and locks it.
func (d *attemptDirs) create() error {
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
	// Some network file systems have no locks. There the next process removes nothing, and does not learn which
	// attempts were running.
	_ = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	return nil
}

// remove removes all directories. All attempts must have ended.
func (d *attemptDirs) remove() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := os.RemoveAll(d.parent)
	return errors.Join(err, d.lock.Close())
}

// acquire returns an empty directory for the attempt.
func (d *attemptDirs) acquire(attempt string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir := filepath.Join(d.parent, attempt)
	for len(d.spares) > 0 {
		spare := d.spares[len(d.spares)-1]
		d.spares = d.spares[:len(d.spares)-1]
		if err := os.Rename(spare, dir); err == nil {
			return dir, nil
		} else if pressure.Reason(err) != "" {
			d.spares = append(d.spares, spare)
			return "", err
		}
	}
	return dir, d.mkdirLocked(dir)
}

// mkdirLocked creates a directory in the parent, and the parent if it was removed. d.mu must be held.
func (d *attemptDirs) mkdirLocked(dir string) error {
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

// ensure creates the directory of an attempt again if it was removed.
func (d *attemptDirs) ensure(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mkdirLocked(dir)
}

// release makes an empty directory available to another attempt, and removes any other.
func (d *attemptDirs) release(dir string) {
	if !isEmpty(dir) {
		// A new directory has none of the modes and attributes that the command may have set either.
		_ = os.RemoveAll(dir)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nextSpare++
	spare := filepath.Join(d.parent, fmt.Sprint(sparePrefix, d.nextSpare))
	if os.Rename(dir, spare) == nil {
		d.spares = append(d.spares, spare)
	}
}

// isEmpty reports whether a directory exists and is empty.
func isEmpty(dir string) bool {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var entries [512]byte
	for {
		n, err := unix.ReadDirent(fd, entries[:])
		if err != nil || n == 0 {
			return err == nil
		}
		if _, _, names := unix.ParseDirent(entries[:n], 1, nil); len(names) > 0 {
			return false
		}
	}
}

// markStopping records that this process stops in order: attempts that it does not end were not interrupted by a crash.
func (d *attemptDirs) markStopping() error {
	return os.WriteFile(filepath.Join(d.parent, stoppingFile), nil, 0o600)
}

// checkSpace returns an error while the disk is full.
func (d *attemptDirs) checkSpace() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	probe := filepath.Join(d.parent, sparePrefix+"probe")
	err := os.WriteFile(probe, make([]byte, spaceProbe), 0o600)
	_ = os.Remove(probe)
	if pressure.Reason(err) == "" {
		return nil
	}
	return err
}

// removeStaleDirs removes the directories in parent whose worker process has ended. For processes of the worker with
// the prefix, it adds the tasks of unfinished attempts to interrupted, by incarnation.
func removeStaleDirs(parent, prefix string, interrupted map[string]map[types.UID]bool) error {
	found, err := filepath.Glob(filepath.Join(parent, "leat-*-*-*-*.*"))
	errs := []error{err}
	for _, dir := range found {
		name := filepath.Base(dir)
		owner, incarnation, _ := strings.Cut(name[min(len(prefix)+1, len(name)):], ".")
		own := strings.HasPrefix(name, prefix+"-")
		stale, err := isStale(dir, owner)
		switch {
		case err != nil:
			errs = append(errs, err)
			continue
		case !stale && own:
			interrupted[incarnation] = nil // it was replaced and has not crashed
			continue
		case !stale:
			continue
		case own:
			interrupted[incarnation] = tasksIn(dir)
		}
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// isStale reports whether the owner of a directory has ended: it is not visible as a living process, and does not
// lock the directory. Only the lock can tell for a process of another PID namespace, such as that of a restarted
// container.
func isStale(dir, owner string) (bool, error) {
	if o, ok := reaper.ParseIdentity(owner); !ok || o.Visible() && !reaper.HasExited(owner) {
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

// tasksIn returns the tasks whose attempts have a directory in that of a worker process. It returns none if the process
// stopped in order.
func tasksIn(dir string) map[types.UID]bool {
	entries, _ := os.ReadDir(dir)
	tasks := map[types.UID]bool{}
	for _, entry := range entries {
		id, isAttempt := attempt.Parse(entry.Name())
		switch {
		case entry.Name() == stoppingFile:
			return nil
		case isAttempt && entry.IsDir() && !strings.HasPrefix(entry.Name(), sparePrefix):
			tasks[id.Task] = true
		}
	}
	return tasks
}
