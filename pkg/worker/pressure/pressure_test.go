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

package pressure

import (
	"io/fs"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func TestReason(t *testing.T) {
	for err, want := range map[error]string{
		nil:                                      "",
		unix.EMFILE:                              "TooManyOpenFiles",
		unix.ENFILE:                              "TooManyOpenFiles",
		unix.EAGAIN:                              "TooManyProcesses",
		unix.ENOMEM:                              "OutOfMemory",
		unix.ENOSPC:                              "NoSpace",
		unix.EDQUOT:                              "NoSpace",
		unix.ETXTBSY:                             "",
		unix.ENOENT:                              "",
		unix.EACCES:                              "",
		unix.E2BIG:                               "",
		unix.ENOEXEC:                             "",
		os.NewSyscallError("pipe2", unix.EMFILE): "TooManyOpenFiles",
		&fs.PathError{Op: "fork/exec", Path: "/bin/true", Err: unix.EAGAIN}: "TooManyProcesses",
	} {
		if got := Reason(err); got != want {
			t.Errorf("%v is %q, want %q", err, got, want)
		}
	}
}

func TestTracker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewTracker(16, 10*time.Second, time.Minute)
		defer p.Stop()
		started := time.Now()
		check := func(at time.Duration, limit int64, reason string) {
			t.Helper()
			time.Sleep(time.Until(started.Add(at)))
			synctest.Wait()
			got, condition := p.State()
			gotReason := ""
			if condition != nil {
				gotReason = condition.Reason
			}
			if got != limit || gotReason != reason {
				t.Errorf("after %s the limit is %d, reason %q; want %d, %q", at, got, gotReason, limit, reason)
			}
		}
		check(0, 16, "")
		p.RecordFailure(unix.EMFILE, 7)
		check(0, 7, "TooManyOpenFiles")
		p.RecordFailure(unix.EMFILE, 5)
		p.RecordFailure(unix.EMFILE, 6)
		check(9*time.Second, 5, "TooManyOpenFiles")
		// After the hold the limit grows by 1, 2, 4 and 8.
		check(10*time.Second, 6, "TooManyOpenFiles")
		check(20*time.Second, 8, "TooManyOpenFiles")
		check(29*time.Second, 8, "TooManyOpenFiles")
		p.RecordFailure(unix.ENOMEM, 7)
		check(29*time.Second, 7, "OutOfMemory")
		// The hold has doubled.
		check(48*time.Second, 7, "OutOfMemory")
		check(49*time.Second, 8, "OutOfMemory")
		check(59*time.Second, 10, "OutOfMemory")
		check(69*time.Second, 14, "OutOfMemory")
		check(79*time.Second, 16, "")
		p.RecordFailure(unix.EAGAIN, 0)
		check(80*time.Second, 0, "TooManyProcesses")
		check(118*time.Second, 0, "TooManyProcesses")
		check(119*time.Second, 1, "TooManyProcesses")
		// After a long time without failures the hold is reset.
		check(10*time.Minute, 16, "")
		p.RecordFailure(unix.EAGAIN, 3)
		check(10*time.Minute+10*time.Second, 4, "TooManyProcesses")
	})
}

func TestPressureLastsWhileTheDiskIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewTracker(2, 10*time.Second, time.Minute)
		defer p.Stop()
		var full atomic.Bool
		full.Store(true)
		p.CheckSpace = func() error {
			if full.Load() {
				return unix.ENOSPC
			}
			return nil
		}
		p.RecordFailure(unix.ENOSPC, 1)
		time.Sleep(10 * time.Minute)
		if limit, condition := p.State(); limit != 1 || condition == nil || condition.Reason != "NoSpace" {
			t.Errorf("the limit is %d, the condition %+v", limit, condition)
		}
		full.Store(false)
		time.Sleep(time.Minute)
		if limit, condition := p.State(); limit != 2 || condition != nil {
			t.Errorf("once there is space, the limit is %d, the condition %+v", limit, condition)
		}
	})
}
