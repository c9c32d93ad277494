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

package archive

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/host"
)

// TestArchive shares one cluster. Its suites have a server and a worker each, and run at the same time.
func TestArchive(t *testing.T) {
	c := newCluster(t)
	suites := map[string]func(*testing.T, *cluster){
		"Full":        testFull,
		"SlowDown":    testSlowDown,
		"Cut":         testCut,
		"Slow":        testSlow,
		"Away":        testAway,
		"Credentials": testCredentials,
		"LostDisk":    testLostDisk,
	}
	first := firstSeed()
	t.Logf("repeat with -args -seed=%d", first)
	for i := range killSuites {
		suites[fmt.Sprintf("Killed%d", i)] = func(t *testing.T, c *cluster) {
			testKilled(t, c, rand.New(rand.NewPCG(first, uint64(i))))
		}
	}
	for name, test := range suites {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, c)
		})
	}
}

// An outage is a fault of the store that begins and ends.
type outage struct {
	begin, end func()
	// noticed returns nil once an upload has met the outage. Nil means once the worker has logged that it failed.
	noticed func(context.Context) error
	// uploadsOnly means that stored segments can be read. reason is why they cannot.
	uploadsOnly bool
	reason      string
}

// survives runs sets before and during an outage. It checks that the second set completes, and that a person can read
// what is on the worker and gets to know what cannot be read. After the outage all must be in the store, once.
func (s *site) survives(o outage) {
	before, outputs := s.run("before", lines("before")...), lines("during")
	s.arrived()
	o.begin()
	during := s.run("during", outputs...)
	noticed := o.noticed
	if noticed == nil {
		noticed = s.uploadFailed
	}
	kit.Eventually(s.t, "an upload meets the outage", noticed)
	s.announced(during)
	if len(s.spooled()) == 0 {
		s.t.Error("the worker has nothing of the set on its disk any more")
	}
	why := "the archive cannot be used now: the store is not available: " + o.reason
	logs, history := s.leat("logs", "during"), s.leat("history", "during")
	if o.uploadsOnly {
		logs.expect(s.t, 0, prefixed("during", outputs), "")
		history.expectRows(s.t, len(outputs), "")
		s.leat("logs", "before").expect(s.t, 0, prefixed("before", lines("before")), "")
		s.leat("history", "before").expectRows(s.t, len(outputs), "")
	} else {
		warning := "warning: records may be missing: " + why + "\n"
		logs.expect(s.t, 0, prefixed("during", outputs), "[leat: output may be missing: "+why+"]\n")
		history.expectRows(s.t, len(outputs), warning)
		s.leat("logs", "before").expect(s.t, 1, "", "Error from server (ServiceUnavailable): "+
			"the output of the tasks of set before of index 0 cannot be read now: "+why+": try again\n")
		s.leat("history", "before").expect(s.t, 0, "", warning+"No finished attempt of taskset/before can be read.\n")
	}
	o.end()
	s.arrived()
	s.stores(before, lines("before")...)
	s.stores(during, outputs...)
	for _, set := range []string{"before", "during"} {
		s.leat("logs", set).expect(s.t, 0, prefixed(set, lines(set)), "")
		s.leat("history", set).expectRows(s.t, len(outputs), "")
	}
}

// uploadFailed returns nil if the worker has logged that an upload failed.
func (s *site) uploadFailed(context.Context) error {
	log, err := os.ReadFile(s.worker.LogFile())
	if err == nil && !bytes.Contains(log, []byte("Failed to send output of tasks to the archive; retrying")) {
		err = await.ErrNotYet
	}
	return err
}

// expectRows checks a table with the attempts of a set, one at each index.
func (r result) expectRows(t *testing.T, indexes int, errOut string) {
	t.Helper()
	rows := strings.Split(strings.TrimSuffix(r.out, "\n"), "\n")
	if r.code != 0 || r.errOut != errOut || len(rows) != indexes+1 {
		t.Errorf("leat %s: got exit code %d, want 0 and %d rows\nstdout:\n%s\nstderr:\n%swant:\n%s", r.line, r.code, indexes, r.out, r.errOut, errOut)
		return
	}
	for i, row := range rows[1:] {
		if !strings.HasPrefix(row, fmt.Sprintf("%d ", i)) {
			t.Errorf("leat %s: row %d is %q", r.line, i, row)
		}
	}
}

// proxied returns a site whose server uses the store through a proxy.
func (c *cluster) proxied(t *testing.T) (*site, *s3Proxy) {
	p := newS3Proxy(t, c.s3)
	return c.newSite(t, c.s3, p.flags(c.s3)...), p
}

func (p *s3Proxy) outage(f fault) outage {
	return outage{begin: func() { p.set(f) }, end: func() { p.set(nil) }}
}

// testFull refuses uploads as servers do whose disk is full and those that have reached a quota.
func testFull(t *testing.T, c *cluster) {
	s, p := c.proxied(t)
	var refused atomic.Int32
	o := p.outage(ofUploads(func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		if refused.Add(1)%2 == 1 {
			refusing(http.StatusInsufficientStorage, "XMinioStorageFull")(w, r, forward)
		} else {
			refusing(http.StatusForbidden, "QuotaExceeded")(w, r, forward)
		}
	}))
	o.uploadsOnly = true
	s.survives(o)
}

func testSlowDown(t *testing.T, c *cluster) {
	s, p := c.proxied(t)
	o := p.outage(refusing(http.StatusServiceUnavailable, "SlowDown"))
	o.reason = "bucket leat of the S3 server " + p.url + `: the server is overloaded and wants fewer requests (status 503, code "SlowDown")`
	s.survives(o)
}

func testCut(t *testing.T, c *cluster) {
	s, p := c.proxied(t)
	o := p.outage(func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		if r.Method == http.MethodPut {
			cutRequest(w, r, forward)
		}
		cutAnswer(w, r, forward)
	})
	o.reason = "the connection to the S3 server " + p.url + " has failed: unexpected EOF"
	s.survives(o)
}

// testSlow holds an upload in the middle until everything else was checked.
func testSlow(t *testing.T, c *cluster) {
	s, p := c.proxied(t)
	held, release := make(chan struct{}, 100), make(chan struct{})
	o := p.outage(ofUploads(func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		held <- struct{}{}
		select {
		case <-release:
		case <-r.Context().Done():
			return
		}
		forward.ServeHTTP(w, r)
	}))
	o.uploadsOnly = true
	o.noticed = func(context.Context) error {
		if len(held) == 0 {
			return await.ErrNotYet
		}
		return nil
	}
	o.end = func() {
		p.set(nil)
		close(release)
	}
	s.survives(o)
}

func testAway(t *testing.T, c *cluster) {
	s3 := host.S3ForTest(t)
	s := c.newSite(t, s3, "--archive-s3-endpoint="+s3.Endpoint, "--archive-s3-ca-file="+s3.CAFile, "--archive-s3-credentials-file="+s3.CredentialsFile)
	s.survives(outage{
		begin:  func() { kit.Check(t, s3.Kill()) },
		end:    func() { kit.Check(t, s3.Restart(t.Context())) },
		reason: "the connection to the S3 server " + s3.Endpoint + " has failed: dial tcp " + strings.TrimPrefix(s3.Endpoint, "https://") + ": connect: connection refused",
	})
}

func testCredentials(t *testing.T, c *cluster) {
	right := kit.Must(os.ReadFile(c.s3.CredentialsFile))(t)
	file := filepath.Join(t.TempDir(), "credentials")
	write := func(content string) func() {
		return func() { kit.Check(t, os.WriteFile(file, []byte(content), 0o600)) }
	}
	write(string(right))()
	s := c.newSite(t, c.s3, "--archive-s3-endpoint="+c.s3.Endpoint, "--archive-s3-ca-file="+c.s3.CAFile, "--archive-s3-credentials-file="+file)
	s.survives(outage{
		begin:  write(strings.ReplaceAll(string(right), c.s3.SecretAccessKey, "other")),
		end:    write(string(right)),
		reason: "bucket leat of the S3 server " + c.s3.Endpoint + `: the credentials are wrong (status 403, code "SignatureDoesNotMatch")`,
	})
}

// testLostDisk loses what a worker has not sent. A person gets to know that it is not kept.
func testLostDisk(t *testing.T, c *cluster) {
	s, p := c.proxied(t)
	p.set(ofUploads(refusing(http.StatusServiceUnavailable, "SlowDown")))
	set := s.run("lost", lines("lost")...)
	kit.Eventually(t, "an upload fails", s.uploadFailed)
	s.announced(set)
	kit.Check(t, s.worker.Kill())
	kit.Check(t, os.RemoveAll(s.stateDir))
	unreachable := s.leat("logs", "lost", "--index=0")
	if want := "index 0 cannot be read now: worker w cannot be read: dial tcp "; unreachable.code != 1 || !strings.Contains(unreachable.errOut, want) {
		t.Errorf("while the worker is away: got %+v, want an error with %q", unreachable, want)
	}
	kit.Check(t, s.worker.Restart(t.Context()))
	p.set(nil)
	s.leat("logs", "lost").expect(t, 0, "", "Error from server (Gone): the output of the indexes 0-3 is not kept: "+
		"it is neither in the archive nor on a worker any more: it may be older than what the archive keeps\n"+
		"4 indexes have succeeded and are gone, with what they printed: 0-3.\n")
	s.leat("history", "lost").expect(t, 0, "", "No finished attempt of taskset/lost is recorded.\n")
}
