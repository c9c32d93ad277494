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
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"runtime"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/measure"
)

const (
	listNamespace = "bench-list"
	// listObjects are how many objects the lists have that subjects are compared by, at most.
	listObjects = 10_000
	// listsPerRound make enough processor time to be read from /proc.
	listsPerRound = 3
)

// listMode is a way to ask for a list.
type listMode struct {
	name  string
	query url.Values
	paged bool
	watch bool
}

var (
	pagedMode     = listMode{name: "pages of 500", query: url.Values{"limit": {"500"}}, paged: true}
	unpagedMode   = listMode{name: "unpaged, consistent", query: url.Values{}}
	cachedMode    = listMode{name: "unpaged, rv=0", query: url.Values{"resourceVersion": {"0"}}}
	watchListMode = listMode{name: "WatchList", watch: true, query: url.Values{
		"watch": {"1"}, "sendInitialEvents": {"true"}, "resourceVersionMatch": {"NotOlderThan"}, "allowWatchBookmarks": {"true"}, "timeoutSeconds": {"3600"},
	}}
)

// listEncoding is how the answer is written.
type listEncoding struct {
	name, accept, compression string
	proto                     bool
}

var (
	gzipList  = listEncoding{name: "JSON, gzip", accept: kruntime.ContentTypeJSON, compression: "gzip"}
	jsonList  = listEncoding{name: jsonEncoding, accept: kruntime.ContentTypeJSON}
	protoList = listEncoding{name: protoEncoding, accept: kruntime.ContentTypeProtobuf, proto: true}
	tableList = listEncoding{name: "Table", accept: "application/json;as=Table;v=v1;g=meta.k8s.io"}
)

// measureLists lists the same number of objects of each subject in all ways.
func (b *bench) measureLists() {
	n := min(b.Objects, listObjects)
	b.scene.makeNamespace(listNamespace)
	subjects := []string{crdLabel, directLabel, aggregated}
	modes, encodings := []listMode{pagedMode, unpagedMode, cachedMode, watchListMode}, []listEncoding{gzipList, jsonList, protoList, tableList}
	if b.Quick {
		subjects, modes, encodings = subjects[:2], modes[2:3], encodings[1:3]
	}
	for _, label := range subjects[:2] {
		b.seed(label, listNamespace, n)
	}
	for round := warmUp; round < b.Rounds; round++ {
		for _, mode := range modes {
			for _, encoding := range encodings {
				for _, label := range rotated(subjects, round) {
					s := b.scene.tasks(label, encoding.proto, listNamespace, 1)
					if label == crdLabel && encoding.proto || mode.watch && encoding.name != jsonEncoding && !encoding.proto {
						continue
					}
					v := b.list(s, mode, encoding, n, round == warmUp)
					if round == warmUp {
						continue
					}
					b.collector.add(partLists, mode.name, label, encoding.name, v)
					b.note("round %d: %-20s %-16s %-10s %s ms of %s an object, first byte after %s ms", round+1, mode.name, label, encoding.name,
						number(v[valueCPU]), strings.Join(s.servers(), " and "), number(v[valueFirst]))
				}
			}
		}
	}
	for _, label := range subjects[:2] {
		b.unseed(label, listNamespace)
	}
}

// Names of values of lists. Bytes and processor time are an object's.
const (
	valueFirst = "first byte ms"
	valueWhole = "whole ms"
)

// list measures lists of n objects, one after the other; or only checks that there are so many.
func (b *bench) list(s *apiSubject, mode listMode, encoding listEncoding, n int, check bool) values {
	if check {
		got, err := fetch(b.scene.Context(), s, mode, encoding, true)
		b.scene.Check(err)
		if got.items != n {
			b.scene.Fatalf("%s, %s, %s lists %d objects, not %d", s.label(), mode.name, encoding.name, got.items, n)
		}
		return nil
	}
	runtime.GC()
	before := b.scene.count()
	var first, whole time.Duration
	received := int64(0)
	for range listsPerRound {
		got, err := fetch(b.scene.Context(), s, mode, encoding, false)
		b.scene.Check(err)
		first += got.first
		whole += got.whole
		received += got.bytes
	}
	b.scene.pause(settleTime)
	v := values{
		valueFirst: milliseconds(first) / listsPerRound, valueWhole: milliseconds(whole) / listsPerRound,
		valueReceived: float64(received) / float64(listsPerRound*n),
	}
	cpuValues(v, before, b.scene.count(), s.servers(), float64(listsPerRound*n))
	return v
}

// fetched is a list that was read.
type fetched struct {
	// first is from the request to the first byte of its answer, whole to the last: of all pages, without the time between them.
	first, whole time.Duration
	// bytes are those that travelled.
	bytes int64
	// items are counted only if that was asked for.
	items int
}

// fetch reads a whole list. What is not looked into is not kept.
func fetch(ctx context.Context, s *apiSubject, mode listMode, encoding listEncoding, count bool) (*fetched, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	result, token := &fetched{}, ""
	for {
		query := maps.Clone(mode.query)
		accept := encoding.accept
		if token != "" {
			query.Set("continue", token)
		}
		if mode.watch {
			accept = watchMediaType(encoding.proto)
		}
		begun := time.Now()
		response, err := send(ctx, s.clients[0], s.collection+"?"+query.Encode(), accept, encoding.compression)
		if err != nil {
			return nil, err
		}
		body := &counting{reader: response.Body}
		var page []byte
		switch {
		case mode.watch:
			result.items, err = readInitial(body, encoding.proto)
		case mode.paged || count:
			page, err = io.ReadAll(body)
		default:
			_, err = io.Copy(io.Discard, body)
		}
		result.whole += time.Since(begun)
		_ = response.Body.Close() // all that counts is read
		if err != nil {
			return nil, err
		}
		if result.first == 0 {
			result.first = body.first.Sub(begun)
		}
		result.bytes += body.n
		if page == nil {
			return result, nil
		}
		if response.Header.Get("Content-Encoding") == "gzip" {
			if page, err = decompress(page); err != nil {
				return nil, err
			}
		}
		list, err := readList(s, page, count)
		if err != nil {
			return nil, err
		}
		result.items += list.items
		if token = list.token; token == "" {
			return result, nil
		}
	}
}

// errBusy is the error of a request that is to be sent again later.
var errBusy = errors.New("the server has too much to do")

// send asks for a list or a watch.
func send(ctx context.Context, client *http.Client, url, accept, compression string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", accept)
	request.Header.Set("User-Agent", userAgent)
	if compression != "" {
		request.Header.Set("Accept-Encoding", compression)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(response.Body, 1000)) // the status is the news
		err := fmt.Errorf("%s answers %s: %s", url, response.Status, body)
		if response.StatusCode == http.StatusTooManyRequests {
			err = errors.Join(err, errBusy)
		}
		return nil, err
	}
	return response, nil
}

// counting counts what is read, and notes when the first of it came.
type counting struct {
	reader io.Reader
	n      int64
	first  time.Time
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.reader.Read(p)
	if n > 0 && c.n == 0 {
		c.first = time.Now()
	}
	c.n += int64(n)
	return n, err
}

func decompress(data []byte) ([]byte, error) {
	reader, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(reader)
}

// readInitial reads a watch until what is stored has come, and counts that.
func readInitial(body io.Reader, proto bool) (int, error) {
	reader := bufio.NewReaderSize(body, 64<<10)
	for n := 0; ; n++ {
		frame, err := readFrame(reader, proto)
		if err != nil {
			return n, err
		}
		if bytes.Contains(frame, []byte(metav1.InitialEventsAnnotationKey)) {
			return n, nil
		}
	}
}

// page is what matters of an answer.
type page struct {
	items int
	token string
}

// continueToken is in the metadata of a list, which come before its items, or after them in the list of a CRD.
var continueToken = regexp.MustCompile(`"continue":"([^"]*)"`)

// readList reads an answer in any encoding. Items are counted only if that was asked for: reading all JSON takes long.
func readList(s *apiSubject, data []byte, count bool) (page, error) {
	if s.proto {
		list := &batch.TaskList{}
		err := s.decode(data, list)
		return page{len(list.Items), list.Continue}, err
	}
	var p page
	for _, part := range [][]byte{data[:min(len(data), 4096)], data[max(len(data)-4096, 0):]} {
		if match := continueToken.FindSubmatch(part); match != nil {
			p.token = string(match[1])
		}
	}
	if !count {
		return p, nil
	}
	var list struct{ Items, Rows []json.RawMessage }
	err := json.Unmarshal(data, &list)
	p.items = len(list.Items) + len(list.Rows)
	return p, err
}

// seed fills the namespace with tasks at the etcd of a subject. They are copies of one that the server has stored, each with a name, a
// uid and a digest of its own.
func (b *bench) seed(label, namespace string, n int) {
	const name = "seed-00000000"
	s := b.scene.tasks(label, false, namespace, 1)
	body, _, err := s.prepare(opCreate, name, nil)
	b.scene.Check(err)
	answer, err := s.do(b.scene.Context(), 0, opCreate, name, body)
	b.scene.Check(err)
	var original metav1.PartialObjectMetadata
	b.scene.Check(json.Unmarshal(answer, &original))
	key, value := b.scene.stored(s.etcd(), namespace, name)
	own := func(i int) [][]byte {
		name, uid := fmt.Sprintf("seed-%08d", i), fmt.Appendf(nil, "00000000-0000-4000-8000-%012d", i)
		if i == 0 {
			uid = []byte(original.UID)
		}
		return [][]byte{[]byte(name), uid, []byte(digest(name))}
	}
	b.scene.Check(measure.CopyStored(b.scene.Context(), b.scene.stores[s.etcd()], key, value, n, own))
	// The last is there for readers of the cache too.
	b.scene.await("the cache", func(ctx context.Context) error {
		response, err := send(ctx, s.clients[0], fmt.Sprintf("%s/seed-%08d?resourceVersion=0", s.collection, n-1), kruntime.ContentTypeJSON, "")
		if err == nil {
			_ = response.Body.Close()
		}
		return err
	})
}

// unseed empties the namespace.
func (b *bench) unseed(label, namespace string) {
	s := b.scene.tasks(label, false, namespace, 1)
	var list metav1.PartialObjectMetadataList
	b.scene.get(s.clients[0], s.collection+"?limit=1", &list)
	if len(list.Items) == 0 {
		return
	}
	key, _ := b.scene.stored(s.etcd(), namespace, list.Items[0].Name)
	prefix := strings.TrimSuffix(key, list.Items[0].Name)
	_, err := b.scene.stores[s.etcd()].Delete(b.scene.Context(), prefix, clientv3.WithPrefix())
	b.scene.Check(err)
	b.scene.await("the cache", func(context.Context) error {
		got, err := fetch(b.scene.Context(), s, cachedMode, jsonList, true)
		if err == nil && got.items > 0 {
			err = fmt.Errorf("%d objects are left", got.items)
		}
		return err
	})
}

// configOf gives the person's way to a subject.
func (b *bench) configOf(s *apiSubject) *rest.Config {
	if s.label() == directLabel {
		return b.scene.past
	}
	return b.scene.through
}
