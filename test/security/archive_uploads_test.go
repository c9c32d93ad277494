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

package security

import (
	"archive/zip"
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/archive/segment"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
	"github.com/leat-dev/leat/test/kit/measure"
)

const (
	incarnation = "22222222-2222-4222-8222-222222222222"
	taskUID     = "33333333-3333-4333-8333-333333333333"
	// maxSegment is the maximum size of a segment.
	maxSegment = 8 << 20
	// uploadTimeout is --request-timeout of the server under attack. A body has four fifths of it.
	uploadTimeout = 20 * time.Second
	// uploadMemory is the budget of all attacks together, in MiB: the server may hold 16 segments, and garbage.
	// uploadRaceFactor is its factor for a program with the race detector.
	uploadMemory, uploadRaceFactor = 4 * 16 * maxSegment >> 20, 4
)

// upload is a request that sends a segment.
type upload struct {
	namespace, worker string
	query             url.Values
	path              string // in place of that of the worker
	method            string
	mediaType         string
	header            http.Header
	body              []byte
	unsized           bool // without Content-Length
}

// newUpload returns an upload that is accepted.
func newUpload(namespace, worker string, set types.UID, number int, body []byte) *upload {
	u := &upload{namespace: namespace, worker: worker, method: http.MethodPost, mediaType: "application/zip", header: http.Header{}, query: url.Values{
		"taskSetUID": {string(set)}, "incarnation": {incarnation}, "segment": {strconv.Itoa(number)},
	}}
	return u.with(body)
}

// with replaces the body.
func (u *upload) with(body []byte) *upload {
	u.body = body
	digest := sha256.Sum256(body)
	u.query.Set("digest", hex.EncodeToString(digest[:]))
	return u
}

// target returns the path and the query.
func (u *upload) target() string {
	path := u.path
	if path == "" {
		path = archivePath(u.namespace, u.worker)
	}
	return path + "?" + u.query.Encode()
}

func archivePath(namespace, worker string) string {
	return groupPath + "/namespaces/" + namespace + "/workers/" + worker + "/archive"
}

// result is the answer to an upload, and after how many seconds the client should try again.
type result struct {
	answer
	retryAfter string
}

// send sends the upload.
func (u *upload) send(t testing.TB, client *http.Client, config *rest.Config) result {
	t.Helper()
	var body io.Reader = bytes.NewReader(u.body)
	if u.unsized {
		body = io.MultiReader(body)
	}
	request := kit.Must(http.NewRequestWithContext(t.Context(), u.method, config.Host+u.target(), body))(t)
	maps.Copy(request.Header, u.header)
	request.Header.Set("Content-Type", u.mediaType)
	response, err := client.Do(request)
	if err != nil {
		return result{answer{0, err.Error()}, ""}
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return result{answer{response.StatusCode, string(text)}, response.Header.Get("Retry-After")}
}

// entry is an entry of a zip file that need not be a segment.
type entry struct {
	name    string
	content []byte
	// size is the declared size, -1 for that of the content. data is the deflated content, if not nil.
	size int64
	data []byte
}

// zipOf returns a zip file.
func zipOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var file bytes.Buffer
	w := zip.NewWriter(&file)
	for _, e := range entries {
		header := &zip.FileHeader{Name: e.name, ReaderVersion: 20, CRC32: crc32.ChecksumIEEE(e.content), UncompressedSize64: uint64(len(e.content))}
		data := e.content
		if e.data != nil {
			header.Method, data = zip.Deflate, e.data
		}
		if e.size >= 0 {
			header.UncompressedSize64 = uint64(e.size)
		}
		header.CompressedSize64 = uint64(len(data))
		if content := kit.Must(w.CreateRaw(header))(t); len(data) > 0 { // a folder has no content
			kit.Must(content.Write(data))(t)
		}
	}
	kit.Check(t, w.Close())
	return file.Bytes()
}

func output(name, content string) entry { return entry{name: name, content: []byte(content), size: -1} }

// attemptAt returns the record of an attempt at an index, by a worker.
func attemptAt(index int32, worker string) *v1alpha1.TaskRecord {
	return &v1alpha1.TaskRecord{
		Index: &index, TaskName: "set-task", TaskUID: taskUID, Attempt: 1, WorkerName: worker, Incarnation: incarnation,
		StartTime: metav1.NewMicroTime(time.Unix(1_700_000_000, 0)), DurationMilliseconds: 1000,
	}
}

// recordsOf returns the last entry of a segment.
func recordsOf(t testing.TB, records ...*v1alpha1.TaskRecord) entry {
	t.Helper()
	var lines []byte
	for _, record := range records {
		lines = append(append(lines, kit.Must(json.Marshal(record))(t)...), '\n')
	}
	return entry{name: "records.jsonl", content: lines, size: -1}
}

// segmentAt returns a segment of one attempt.
func segmentAt(t testing.TB, index int32, worker, content string) []byte {
	t.Helper()
	record := attemptAt(index, worker)
	return zipOf(t, output(segment.EntryName(record), content), recordsOf(t, record))
}

// zeros returns a deflated stream of GiBs of zeros that has about that size.
func zeros(t testing.TB, size int) []byte {
	t.Helper()
	var block bytes.Buffer
	w := kit.Must(flate.NewWriter(&block, flate.BestCompression))(t)
	kit.Must(w.Write(make([]byte, 8<<20)))(t)
	kit.Check(t, w.Flush())
	stream := bytes.Repeat(block.Bytes(), size/block.Len())
	return append(stream, 1, 0, 0, 0xff, 0xff) // an empty last block
}

// uploadAttack changes an accepted upload to one that must be refused.
type uploadAttack struct {
	name   string
	change func(t *testing.T, u *upload)
	code   int
	words  []string
}

// uploadAttacks returns the attacks of a worker. others is a namespace of another tenant.
func uploadAttacks(worker, others string) []uploadAttack {
	path := func(path string) func(*testing.T, *upload) { return func(_ *testing.T, u *upload) { u.path = path } }
	query := func(name, value string) func(*testing.T, *upload) {
		return func(_ *testing.T, u *upload) { u.query.Set(name, value) }
	}
	body := func(body func(*testing.T) []byte) func(*testing.T, *upload) {
		return func(t *testing.T, u *upload) { u.with(body(t)) }
	}
	named := func(name string) func(*testing.T, *upload) {
		return body(func(t *testing.T) []byte { return zipOf(t, output(name, "x"), recordsOf(t, attemptAt(1, worker))) })
	}
	const nameRule = "the name must be <index>.<failures>.<attempt>.log or <task UID>.<attempt>.log"
	one := "1.0.1.log"
	return []uploadAttack{
		{"as another worker", func(_ *testing.T, u *upload) { u.worker = "other" }, 403, nil},
		{"into another namespace", func(_ *testing.T, u *upload) { u.namespace = others }, 403, nil},
		{"for all namespaces", path(groupPath + "/workers/" + worker + "/archive"), 403, nil},
		{"a path with ..", func(_ *testing.T, u *upload) { u.path = archivePath(u.namespace, "../workers/other") }, 0, nil},
		{"a path with %2e%2e", func(_ *testing.T, u *upload) { u.path = archivePath(u.namespace, "%2e%2e/workers/other") }, 0, nil},
		{"a worker with %2f", func(_ *testing.T, u *upload) { u.path = archivePath(u.namespace, "..%2f..%2fother") }, 0, nil},
		{"a worker with %252e", func(_ *testing.T, u *upload) { u.path = archivePath(u.namespace, "%252e%252e") }, 403, nil},
		{"another method", func(_ *testing.T, u *upload) { u.method = http.MethodPut }, 403, nil},

		{"a set that is a path", query("taskSetUID", "../../"+others), 422, []string{"taskSetUID", "must be a lowercase UUID"}},
		{"a set that is encoded twice", query("taskSetUID", "%2e%2e%2ftasks"), 422, []string{"taskSetUID"}},
		{"the set of tasks without one", query("taskSetUID", "tasks"), 422, []string{"taskSetUID"}},
		{"an incarnation that is a path", query("incarnation", "../../../"+others), 422, []string{"incarnation", "must be a UUID in lowercase"}},
		{"an incarnation with a null byte", query("incarnation", incarnation+"\x00"), 422, []string{"incarnation"}},
		{"no incarnation", query("incarnation", ""), 422, []string{"incarnation"}},
		{"a negative number", query("segment", "-1"), 422, []string{"segment", "greater than or equal to 0"}},
		{"a number that is too large", query("segment", "99999999999999999999"), 400, []string{"99999999999999999999"}},
		{"a number that is a path", query("segment", "1/../../2"), 400, nil},
		{"a wrong digest", query("digest", strings.Repeat("0", 64)), 400, []string{"digest", "must be the SHA-256 digest of the body"}},
		{"no digest", query("digest", ""), 400, []string{"digest"}},
		{"a digest that is too long", query("digest", strings.Repeat("0", 100_000)), 0, nil},

		{"JSON", func(_ *testing.T, u *upload) { u.mediaType = "application/json" }, 415, []string{"application/json", "must be application/zip"}},
		{"no media type", func(_ *testing.T, u *upload) { u.mediaType = "" }, 415, []string{"must be application/zip"}},
		{"a compressed body", func(_ *testing.T, u *upload) { u.header.Set("Content-Encoding", "gzip") }, 415, []string{"gzip", "without one"}},
		{"an object", body(func(*testing.T) []byte { return []byte(taskJSON) }), 422, []string{"end record"}},
		{"a few bytes", body(func(*testing.T) []byte { return []byte("PK") }), 422, []string{"2 bytes", "at least 22"}},
		{"noise", body(func(*testing.T) []byte { noise := make([]byte, 1<<20); _, _ = rand.Read(noise); return noise }), 422, []string{"end record"}},
		{"too large", body(func(*testing.T) []byte { return make([]byte, maxSegment+1) }), 413, []string{"8388609 bytes", "at most 8388608"}},
		{"too large, without its size", func(_ *testing.T, u *upload) { u.with(make([]byte, maxSegment+1)).unsized = true }, 413, []string{"at most 8388608"}},
		{"GiBs", func(_ *testing.T, u *upload) { u.body, u.unsized = make([]byte, 64<<20), true }, 413, []string{"at most 8388608"}},
		{"nothing but a directory", body(func(t *testing.T) []byte { return zipOf(t) }), 422, []string{"0 entries"}},
		{"no records", body(func(t *testing.T) []byte { return zipOf(t, output(one, "x"), output("2.0.1.log", "x")) }), 422, []string{"last entry must be records.jsonl"}},

		{"an entry above", named("../../" + one), 422, []string{"../../" + one, nameRule}},
		{"an entry above, encoded", named("%2e%2e/%2e%2e/" + one), 422, []string{nameRule}},
		{"an entry above, with backslashes", named(`..\..\` + one), 422, []string{nameRule}},
		{"an absolute entry", named("/etc/passwd"), 422, []string{nameRule}},
		{"a folder", body(func(t *testing.T) []byte {
			return zipOf(t, output("1.0.1.log/", ""), recordsOf(t, attemptAt(1, worker)))
		}), 422, []string{nameRule}},
		{"an entry with a null byte", named(one + "\x00.log"), 422, []string{nameRule}},
		{"an entry with an escape sequence", named("\x1b]0;title\x07.1.log"), 422, []string{nameRule}},
		{"an entry with a long name", named(strings.Repeat("1", 60_000) + ".0.1.log"), 422, []string{"60008 bytes", "at most"}},
		{"two entries of one name", body(func(t *testing.T) []byte {
			record := attemptAt(1, worker)
			return zipOf(t, output(one, "x"), output(one, "y"), recordsOf(t, record, record))
		}), 422, []string{one, "the name must be unique"}},
		{"an output of 2 GiB", body(func(t *testing.T) []byte {
			return zipOf(t, entry{one, nil, 2 << 30, zeros(t, 7<<20)}, recordsOf(t, attemptAt(1, worker)))
		}), 422, []string{one, "it has 2147483648 bytes, at most 1048576"}},
		{"records of 4 GB", body(func(t *testing.T) []byte {
			return zipOf(t, output(one, "x"), entry{"records.jsonl", nil, 4_000_000_000, zeros(t, 7<<20)})
		}), 422, []string{"records.jsonl", "4000000000 bytes", "at most 67108864"}},
		{"records of one line that inflates to GiBs", body(func(t *testing.T) []byte {
			return zipOf(t, output(one, "x"), entry{"records.jsonl", nil, 64 << 20, zeros(t, 7<<20)})
		}), 422, []string{"line 1 of records.jsonl is too long"}},
		{"records that inflate to more than they declare", body(func(t *testing.T) []byte {
			line := recordsOf(t, attemptAt(1, worker)).content
			var deflated bytes.Buffer
			w := kit.Must(flate.NewWriter(&deflated, flate.BestCompression))(t)
			kit.Must(w.Write(bytes.Repeat(line, 1000)))(t)
			kit.Check(t, w.Close())
			return zipOf(t, output(one, "x"), entry{"records.jsonl", line, int64(len(line)) * 10, deflated.Bytes()})
		}), 422, []string{"records.jsonl"}},
		{"more records than entries", body(func(t *testing.T) []byte {
			return zipOf(t, output(one, "x"), recordsOf(t, attemptAt(1, worker), attemptAt(2, worker)))
		}), 422, []string{"one record for each of the 1 entries, but has more"}},
		{"records in another order", body(func(t *testing.T) []byte {
			return zipOf(t, output(one, "x"), output("2.0.1.log", "y"), recordsOf(t, attemptAt(2, worker), attemptAt(1, worker)))
		}), 422, []string{"records must have the order of the entries"}},
		{"records of another worker", body(func(t *testing.T) []byte {
			return zipOf(t, output(one, "x"), recordsOf(t, attemptAt(1, "other")))
		}), 422, []string{`workerName of the records is \"other\"`, "that of the worker that sends them"}},
		{"records that are not JSON", body(func(t *testing.T) []byte { return zipOf(t, output(one, "x"), output("records.jsonl", "<html>")) }), 422, []string{"line 1 of records.jsonl must be a record in JSON"}},
		{"a directory with other sizes than the entry", body(func(t *testing.T) []byte {
			content := segmentAt(t, 1, worker, "content")
			binary.LittleEndian.PutUint32(content[18:], 1) // in the local header
			return content
		}), 422, []string{one, "its local header must have"}},
		{"an entry that overlaps the next", body(func(t *testing.T) []byte {
			content := segmentAt(t, 1, worker, "content")
			for _, at := range []int{18, 22, bytes.Index(content, []byte("PK\x01\x02")) + 20, bytes.Index(content, []byte("PK\x01\x02")) + 24} {
				binary.LittleEndian.PutUint32(content[at:], 8)
			}
			return content
		}), 422, []string{"entries follow each other without gaps"}},
		{"an end record that counts too many", body(func(t *testing.T) []byte {
			content := segmentAt(t, 1, worker, "content")
			end := content[len(content)-22:]
			binary.LittleEndian.PutUint16(end[8:], 65535)
			binary.LittleEndian.PutUint16(end[10:], 65535)
			return content
		}), 422, []string{"65535 entries, too many"}},
		{"bytes before the first entry", body(func(t *testing.T) []byte { return append([]byte("#!/bin/sh\n"), segmentAt(t, 1, worker, "x")...) }), 422, nil},
		{"bytes after the end", body(func(t *testing.T) []byte { return append(segmentAt(t, 1, worker, "x"), "more"...) }), 422, []string{"end record"}},
		{"half of it", body(func(t *testing.T) []byte { all := segmentAt(t, 1, worker, "x"); return all[:len(all)/2] }), 422, nil},
	}
}

// testUploads sends hostile segments: to a server of its own, whose memory is measured, and through the aggregator.
func testUploads(t *testing.T, e *kit.Env, s3 *host.S3) {
	f := newArchiveFixture(t, e, s3)
	replica := e.Replica(t, "--request-timeout="+uploadTimeout.String())
	pid := replica.Server.PID()
	factor := 1.0
	if raceBuild(t, pid) {
		factor = uploadRaceFactor
	}
	kit.Check(t, measure.ResetPeak(pid))
	before := kit.Must(measure.Memory(pid, "VmRSS"))(t)
	t.Run("attacks", func(t *testing.T) {
		for name, as := range map[string]func(t testing.TB, namespace, worker string) *rest.Config{
			"at the server": replica.Worker,
			"through the aggregator": func(t testing.TB, namespace, worker string) *rest.Config {
				return e.Person(t, v1alpha1.WorkerUser(namespace, worker), v1alpha1.WorkersGroup)
			},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				worker := strings.ReplaceAll(name, " ", "-")
				f.attack(t, as(t, f.own, worker), worker)
			})
		}
	})
	t.Run("many at once", func(t *testing.T) { f.manyAtOnce(t, replica) })
	t.Run("bodies that do not end", func(t *testing.T) { f.slow(t, replica) })
	took := kit.Must(measure.Memory(pid, "VmHWM"))(t) - before
	t.Logf("all took %.0f MiB", took)
	if limit := uploadMemory * factor; took > limit {
		t.Errorf("took %.0f MiB, want at most %.0f", took, limit)
	}
}

// archiveFixture has two tenants with a set each.
type archiveFixture struct {
	env         *kit.Env
	s3          *host.S3
	own, others string
	// uids are the UIDs of the namespaces, and sets those of the sets.
	uids, sets map[string]types.UID
}

func newArchiveFixture(t *testing.T, e *kit.Env, s3 *host.S3) *archiveFixture {
	t.Helper()
	f := &archiveFixture{env: e, s3: s3, uids: map[string]types.UID{}, sets: map[string]types.UID{}}
	t.Run("own", func(t *testing.T) { f.own = e.Namespace(t) })
	t.Run("others", func(t *testing.T) { f.others = e.Namespace(t) })
	for _, namespace := range []string{f.own, f.others} {
		f.addSet(t, namespace)
	}
	return f
}

// addSet creates a set that runs nothing in a namespace, and lets workers of the namespace through the host: those with
// the role leat:worker only reach the server itself.
func (f *archiveFixture) addSet(t *testing.T, namespace string) {
	t.Helper()
	f.uids[namespace] = kit.Must(f.env.HostClient(t).CoreV1().Namespaces().Get(t.Context(), namespace, metav1.GetOptions{}))(t).UID
	set := kit.NewTaskSet("set")
	indexed := v1alpha1.IndexedCompletion
	set.Spec.Completions, set.Spec.CompletionMode, set.Spec.Suspend = new(int32(100_000)), &indexed, new(true)
	f.sets[namespace] = kit.Must(kit.Client(t, f.env.Admin(t)).BatchV1alpha1().TaskSets(namespace).Create(t.Context(), set, metav1.CreateOptions{}))(t).UID
	name := "archive-" + namespace
	role(t, f.env, name, rbacv1.PolicyRule{APIGroups: []string{"batch.leat.dev"}, Resources: []string{"workers/archive"}, Verbs: []string{"create"}})
	f.env.BindClusterRole(t, namespace, name, name, kit.GroupSubject(v1alpha1.WorkersGroup))
}

// stored returns the keys of the segments of a namespace, without the namespace.
func (f *archiveFixture) stored(t testing.TB, namespace string) []string {
	t.Helper()
	dir := filepath.Join(f.s3.BucketDir, "leat", string(f.uids[namespace]))
	var keys []string
	err := filepath.WalkDir(dir, func(path string, file fs.DirEntry, err error) error {
		if err == nil && file.Type().IsRegular() {
			keys = append(keys, kit.Must(filepath.Rel(dir, path))(t))
		}
		return err
	})
	if !errors.Is(err, fs.ErrNotExist) {
		kit.Check(t, err)
	}
	slices.Sort(keys)
	return keys
}

// key returns the key of a segment of one index, which is its number.
func (f *archiveFixture) key(set types.UID, worker string, number int) string {
	return fmt.Sprintf("%s/%s/%s-%d-%d.zip", set, worker, incarnation, number, number)
}

// attack sends all attacks as a worker, and an upload that is accepted after each.
func (f *archiveFixture) attack(t *testing.T, config *rest.Config, worker string) {
	client := http2Client(t, config)
	honest := func(number int) *upload {
		return newUpload(f.own, worker, f.sets[f.own], number, segmentAt(t, int32(number), worker, "honest"))
	}
	kit.Eventually(t, "the worker may send", func(context.Context) error {
		if got := honest(0).with(nil).send(t, client, config); got.code != http.StatusOK {
			return errors.New(got.String())
		}
		return nil
	})
	var want []string
	for i, attack := range uploadAttacks(worker, f.others) {
		hostile := honest(1000 + i)
		attack.change(t, hostile)
		got := hostile.send(t, client, config)
		refused := got.code == attack.code || attack.code == 0 && (got.code == 0 || got.code >= 300 && got.code < 500)
		if !refused || len(got.body) > 4096 {
			t.Errorf("%s: got %s, want %d", attack.name, got, attack.code)
		}
		for _, words := range attack.words {
			if encoded := string(kit.Must(json.Marshal(words))(t)); !strings.Contains(got.body, words) && !strings.Contains(got.body, strings.Trim(encoded, `"`)) {
				t.Errorf("%s: got %s, want it to have %q", attack.name, got, words)
			}
		}
		if got := honest(i).send(t, client, config); got.code != http.StatusOK {
			t.Errorf("an upload after %s: got %s, want 200", attack.name, got)
		}
		want = append(want, f.key(f.sets[f.own], worker, i))
	}
	got := slices.DeleteFunc(f.stored(t, f.own), func(key string) bool { return !strings.Contains(key, "/"+worker+"/") })
	if slices.Sort(want); !slices.Equal(got, want) {
		t.Errorf("stored are %q, want %q", got, want)
	}
	if other := f.stored(t, f.others); len(other) > 0 {
		t.Errorf("the other namespace has %q", other)
	}
}

// pending is an upload over HTTP/1.1 that has sent its headers and a part of its body.
type pending struct {
	connection *tls.Conn
	rest       []byte
}

// begin sends half of an upload.
func (u *upload) begin(t testing.TB, config *rest.Config) *pending {
	t.Helper()
	half := len(u.body) / 2
	text := head(config, u.method, u.target(), "Content-Type: "+u.mediaType, fmt.Sprint("Content-Length: ", len(u.body))) + string(u.body[:half])
	p := &pending{dial(t, config), u.body[half:]}
	kit.Must(io.WriteString(p.connection, text))(t)
	return p
}

// read returns the answer.
func (p *pending) read() result {
	response, err := http.ReadResponse(bufio.NewReader(p.connection), &http.Request{Method: http.MethodPost})
	if err != nil {
		return result{answer{0, err.Error()}, ""}
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return result{answer{response.StatusCode, string(text)}, response.Header.Get("Retry-After")}
}

// manyAtOnce begins uploads of many workers of two namespaces. The server receives 16, of each namespace 8.
func (f *archiveFixture) manyAtOnce(t *testing.T, e *kit.Env) {
	const uploads, places = 100, 16
	type answered struct {
		*pending
		result
	}
	begun, answers := map[*pending]string{}, make(chan answered, uploads)
	for i := range uploads {
		namespace, worker := []string{f.own, f.others}[i%2], fmt.Sprintf("many-%d", i)
		p := newUpload(namespace, worker, f.sets[namespace], i, segmentAt(t, int32(i), worker, "honest")).begin(t, e.Worker(t, namespace, worker))
		begun[p] = namespace
		go func() { answers <- answered{p, p.read()} }()
	}
	for range uploads - places {
		got := <-answers
		if got.code != http.StatusTooManyRequests || got.retryAfter == "" || !strings.Contains(got.body, "16, 8 of a namespace and 2 of a worker: try again") {
			t.Errorf("got %s, retry after %q, want 429 with the limits, and the delay", got, got.retryAfter)
		}
		delete(begun, got.pending)
	}
	byNamespace := map[string]int{}
	for p, namespace := range begun {
		byNamespace[namespace]++
		kit.Must(p.connection.Write(p.rest))(t)
	}
	if byNamespace[f.own] != places/2 || byNamespace[f.others] != places/2 {
		t.Errorf("the server receives uploads of %v, want %d of each namespace", byNamespace, places/2)
	}
	for range begun {
		if got := <-answers; got.code != http.StatusOK {
			t.Errorf("got %s for the rest of an upload, want 200", got)
		}
	}
}

// awaitUploads waits until the server receives so many uploads.
func (f *archiveFixture) awaitUploads(t *testing.T, e *kit.Env, uploads float64) {
	t.Helper()
	const name = "archive-metrics"
	role(t, f.env, name, rbacv1.PolicyRule{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}})
	f.env.BindClusterRole(t, "", name, name, kit.UserSubject(name))
	config := e.Direct(t, name)
	client := http2Client(t, config)
	kit.Eventually(t, "the server receives the uploads", func(ctx context.Context) error {
		metrics, err := measure.ReadMetrics(ctx, client, config.Host+"/metrics")
		if got := metrics["leat_apiserver_archive_uploads_in_flight"]; err == nil && got != uploads {
			err = fmt.Errorf("it receives %g", got)
		}
		return err
	})
}

// slow begins uploads that do not end, as many as a worker may. They must not keep it away for longer than a request
// may take.
func (f *archiveFixture) slow(t *testing.T, e *kit.Env) {
	config := e.Worker(t, f.own, "slow")
	client := http2Client(t, config)
	honest := newUpload(f.own, "slow", f.sets[f.own], 0, segmentAt(t, 0, "slow", "honest"))
	stalled := honest.begin(t, config)
	body, end := io.Pipe()
	defer end.Close()
	type answered struct {
		answer
		overHTTP2 bool
	}
	answers := make(chan answered, 2)
	go func() { answers <- answered{stalled.read().answer, false} }()
	request := kit.Must(http.NewRequestWithContext(t.Context(), http.MethodPost, config.Host+honest.target(), body))(t)
	request.Header.Set("Content-Type", honest.mediaType)
	go func() {
		response, err := client.Do(request)
		if err != nil {
			answers <- answered{answer{0, err.Error()}, true}
			return
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		answers <- answered{answer{response.StatusCode, string(text)}, true}
	}()
	kit.Must(end.Write([]byte("PK")))(t)
	// A request before would take the place of one of them.
	f.awaitUploads(t, e, 2)
	kit.Eventually(t, "the worker has no more places", func(context.Context) error {
		if len(answers) > 0 {
			t.Fatalf("an upload that does not end: got %v at once", <-answers)
		}
		if got := honest.send(t, client, config); got.code != http.StatusTooManyRequests {
			return errors.New(got.String())
		}
		return nil
	})
	for range 2 {
		if got := <-answers; got.code == http.StatusOK {
			t.Errorf("an upload that does not end: got %s, want an error", got.answer)
		} else if got.overHTTP2 && (got.code != http.StatusRequestTimeout || !strings.Contains(got.body, "the body took too long")) {
			// Over HTTP/1, the filter of timeouts may be faster.
			t.Errorf("an upload that does not end: got %s, want 408", got.answer)
		}
	}
	if got := honest.send(t, client, config); got.code != http.StatusOK {
		t.Errorf("an upload after slow ones: got %s, want 200", got)
	}
}
