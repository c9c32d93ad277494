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

package segment

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// left are the files of a segment whose process was killed.
type left struct {
	segment []byte
	// sidecar is nil if there is no such file.
	sidecar []byte
}

// unclosed returns the files of a segment before it is closed.
func unclosed(t testing.TB, attempts []attempt) left {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.zip")
	w := create(t, path, attempts)
	files := left{read(t, path), read(t, sidecar(path))}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return files
}

func (l left) write(t testing.TB, path string) {
	t.Helper()
	if err := os.WriteFile(path, l.segment, 0o600); err != nil {
		t.Fatal(err)
	}
	if l.sidecar == nil {
		_ = os.Remove(sidecar(path))
	} else if err := os.WriteFile(sidecar(path), l.sidecar, 0o600); err != nil {
		t.Fatal(err)
	}
}

// recoverAndCheck recovers the files and checks the result: all attempts whose entries end within the segment. known is
// the number of attempts whose records are left.
func recoverAndCheck(t *testing.T, path string, files left, attempts []attempt, known int) {
	t.Helper()
	files.write(t, path)
	whole, end := 0, 0
	for _, a := range attempts {
		p := packers.Get().(*packer)
		end += len(p.pack(&entry{name: EntryName(&a.record)}, a.output))
		packers.Put(p)
		if end > len(files.segment) {
			break
		}
		whole++
	}
	count, err := Recover(path)
	if err != nil || count != whole {
		t.Fatalf("recovered %d attempts, %v; want %d", count, err, whole)
	}
	if _, err := os.Stat(sidecar(path)); !os.IsNotExist(err) {
		t.Fatalf("the sidecar file exists: %v", err)
	}
	if whole == 0 {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Fatalf("a segment without attempts exists: %v", err)
		}
		return
	}
	body := read(t, path)
	if _, err := Verify(body, testLimits); err != nil {
		t.Fatal(err)
	}
	r, err := OpenFile(path, testLimits)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]attempt, whole)
	for i := range want {
		want[i] = attempts[i]
		if i >= known {
			want[i].record = recovered(attempts[i], known > 0)
		}
	}
	check(t, r, want)

	if count, err := Recover(path); err != nil || count != whole || !bytes.Equal(read(t, path), body) {
		t.Fatalf("recovered again: %d attempts, %v, or other bytes", count, err)
	}
}

// recovered returns the record that Recover makes for an attempt. others is set if another record is left.
func recovered(a attempt, others bool) (record batch.TaskRecord) {
	record.Index, record.Failures, record.Attempt = a.record.Index, a.record.Failures, a.record.Attempt
	if others {
		record.WorkerName, record.Incarnation = a.record.WorkerName, a.record.Incarnation
	}
	ended := a.record.StartTime.Add(time.Duration(a.record.DurationMilliseconds) * time.Millisecond)
	record.StartTime = metav1.NewMicroTime(ended.UTC().Truncate(2 * time.Second))
	record.Reason, record.ExitCode, record.OutputBytes = "Unknown", -1, int64(len(a.output))
	return record
}

// fewAttempts are attempts of a small segment, as each position of a cut needs two syncs.
func fewAttempts() []attempt {
	return []attempt{{indexed(0), []byte("hello\n")}, {indexed(1), nil}, {indexed(2), text(200)}, {indexed(3), noise(minDeflated)}}
}

func TestRecoverASegmentCutAnywhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.zip")
	attempts := fewAttempts()
	open := unclosed(t, attempts)
	body := closed(t, attempts)
	for cut := range len(body) + 1 {
		recoverAndCheck(t, path, left{body[:cut], open.sidecar}, attempts, len(attempts))
	}
}

func TestRecoverASidecarFileCutAnywhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.zip")
	attempts := fewAttempts()[:2]
	open := unclosed(t, attempts)
	for cut := range len(open.sidecar) + 1 {
		// Without its line feed, a line may be whole.
		known := bytes.Count(append(bytes.Clone(open.sidecar[:cut]), '\n'), []byte("}\n"))
		recoverAndCheck(t, path, left{open.segment, open.sidecar[:cut]}, attempts, known)
	}
}

func TestRecoverWithoutSidecarFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.zip")
	attempts := fewAttempts()
	body := closed(t, attempts)
	r, err := Open(bytes.NewReader(body), int64(len(body)), testLimits)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(body) + 1 {
		known := 0
		if int64(cut) >= r.records.end() {
			known = len(attempts)
		}
		recoverAndCheck(t, path, left{body[:cut], nil}, attempts, known)
	}
}

func TestRecoverKeepsClosedSegments(t *testing.T) {
	attempts := someAttempts()
	body := closed(t, attempts)
	for name, files := range map[string]left{
		"closed":                          {body, nil},
		"killed before sidecar's removal": {body, unclosed(t, attempts).sidecar},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s.zip")
			recoverAndCheck(t, path, files, attempts, len(attempts))
			if !bytes.Equal(read(t, path), body) {
				t.Error("the segment has changed")
			}
		})
	}
}

func TestRecoverDropsDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.zip")
	attempts := fewAttempts()
	open := unclosed(t, attempts)
	// After a power failure, the end of a file may have zeros.
	for keep := range len(open.segment) {
		damaged := append(bytes.Clone(open.segment[:keep]), make([]byte, len(open.segment)-keep)...)
		left{damaged, open.sidecar}.write(t, path)
		count, err := Recover(path)
		if err != nil {
			t.Fatalf("%d bytes kept: %v", keep, err)
		}
		if count == 0 {
			continue
		}
		r, err := OpenFile(path, testLimits)
		if err != nil {
			t.Fatalf("%d bytes kept: %v", keep, err)
		}
		check(t, r, attempts[:count])
	}
}

func TestRecoverStopsAtADuplicatedName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.zip")
	attempts := fewAttempts()
	open := unclosed(t, attempts)
	left{append(bytes.Clone(open.segment), open.segment...), open.sidecar}.write(t, path)
	if count, err := Recover(path); err != nil || count != len(attempts) {
		t.Fatalf("recovered %d attempts, %v; want %d", count, err, len(attempts))
	}
	r, err := OpenFile(path, testLimits)
	if err != nil {
		t.Fatal(err)
	}
	check(t, r, attempts)
}

func TestRecoverOfNoSegment(t *testing.T) {
	for name, test := range map[string]struct {
		files left
		err   error
	}{
		"empty":                   {left{[]byte{}, []byte{}}, nil},
		"empty, without sidecar":  {left{[]byte{}, nil}, nil},
		"not a zip file":          {left{text(100), nil}, nil},
		"larger than any segment": {left{make([]byte, MaxSize+1), nil}, ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s.zip")
			test.files.write(t, path)
			count, err := Recover(path)
			if !errors.Is(err, test.err) || count != 0 {
				t.Fatalf("%d, %v", count, err)
			}
			if _, err := os.Stat(path); os.IsNotExist(err) != (test.err == nil) {
				t.Errorf("the file: %v", err)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "s.zip")
	if _, err := Recover(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(sidecar(path), []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if count, err := Recover(path); count != 0 || err != nil {
		t.Errorf("only a sidecar file: %d, %v", count, err)
	}
	if _, err := os.Stat(sidecar(path)); !os.IsNotExist(err) {
		t.Errorf("the sidecar file exists: %v", err)
	}
}

func FuzzRecover(f *testing.F) {
	attempts := someAttempts()
	open, body := unclosed(f, attempts), closed(f, attempts)
	f.Add(open.segment, open.sidecar, true)
	f.Add(body, open.sidecar, true)
	f.Add(body, []byte{}, false)
	f.Add(body[:len(body)/2], open.sidecar[:len(open.sidecar)/2], true)
	f.Fuzz(func(t *testing.T, segment, records []byte, hasSidecar bool) {
		path := filepath.Join(t.TempDir(), "s.zip")
		if !hasSidecar {
			records = nil
		}
		left{segment, records}.write(t, path)
		count, err := Recover(path)
		if err != nil {
			t.Fatal(err)
		}
		if count == 0 {
			if _, err := os.Stat(path); !os.IsNotExist(err) {
				t.Fatalf("a segment without attempts: %v", err)
			}
			return
		}
		after := read(t, path)
		if again, err := Recover(path); err != nil || again != count || !bytes.Equal(read(t, path), after) {
			t.Fatalf("recovered again: %d attempts, then %d, %v", count, again, err)
		}
		r, err := OpenFile(path, Limits{Size: 1 << 40, Output: 1 << 40, Records: 1 << 40})
		if err != nil || len(r.Entries()) != count {
			t.Fatalf("%v", err)
		}
	})
}
