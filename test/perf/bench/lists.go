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
	// listObjects is the maximum number of objects in lists that are compared between subjects.
	listObjects = 10_000
	// listsPerRound is enough for a CPU time that /proc can resolve.
	listsPerRound = 3
)

// listMode is a way to request a list.
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

// listEncoding is the encoding of a response.
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

// measureLists lists the same number of objects of each subject in all modes and encodings.
func (b *bench) measureLists() {
	n := min(b.Objects, listObjects)
	b.scene.createNamespace(listNamespace)
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

// Names of values of lists. Bytes and CPU time are per object.
const (
	valueFirst = "first byte ms"
	valueWhole = "whole ms"
)

// list measures sequential lists of n objects. With check it only checks the number of objects.
func (b *bench) list(s *apiSubject, mode listMode, encoding listEncoding, n int, check bool) values {
	if check {
		got, err := fetch(b.scene.Context(), s, mode, encoding, true)
		b.scene.Check(err)
		if got.items != n {
			b.scene.Fatalf("%s, %s, %s: got %d objects, want %d", s.label(), mode.name, encoding.name, got.items, n)
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

// fetched is a list that fetch has read.
type fetched struct {
	// first is the time from the request to the first byte of the response, and whole the time to the last byte. whole
	// includes all pages, but not the time between them.
	first, whole time.Duration
	// bytes is the number of bytes on the wire.
	bytes int64
	// items is the number of objects, if fetch was called with count.
	items int
}

// fetch reads a whole list. It keeps only the pages that it must decode.
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
		body := &countingReader{reader: response.Body}
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
		_ = response.Body.Close() // everything needed has been read
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

// errBusy is the error of a response 429. The client must retry later.
var errBusy = errors.New("the server is overloaded")

// send requests a list or a watch.
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
		body, _ := io.ReadAll(io.LimitReader(response.Body, 1000)) // the status matters more
		err := fmt.Errorf("GET %s: %s: %s", url, response.Status, body)
		if response.StatusCode == http.StatusTooManyRequests {
			err = errors.Join(err, errBusy)
		}
		return nil, err
	}
	return response, nil
}

// countingReader counts bytes and records the time of the first.
type countingReader struct {
	reader io.Reader
	n      int64
	first  time.Time
}

func (c *countingReader) Read(p []byte) (int, error) {
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

// readInitial reads a watch until the bookmark after the initial events, and returns their number.
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

// page has the decoded fields of a response.
type page struct {
	items int
	token string
}

// continueToken matches the token in the metadata of a list. They are before the items, or after them in a list of a
// CRD.
var continueToken = regexp.MustCompile(`"continue":"([^"]*)"`)

// readList decodes a response in any encoding. It counts the items only if count is set, because decoding all JSON is
// slow.
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

// seed writes tasks of a namespace to the etcd of a subject. They are copies of one that the server stored, each with
// its own name, UID and digest.
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
	unique := func(i int) [][]byte {
		name, uid := fmt.Sprintf("seed-%08d", i), fmt.Appendf(nil, "00000000-0000-4000-8000-%012d", i)
		if i == 0 {
			uid = []byte(original.UID)
		}
		return [][]byte{[]byte(name), uid, []byte(digest(name))}
	}
	b.scene.Check(measure.CopyStored(b.scene.Context(), b.scene.stores[s.etcd()], key, value, n, unique))
	b.scene.await("the last task in the watch cache", func(ctx context.Context) error {
		response, err := send(ctx, s.clients[0], fmt.Sprintf("%s/seed-%08d?resourceVersion=0", s.collection, n-1), kruntime.ContentTypeJSON, "")
		if err == nil {
			_ = response.Body.Close()
		}
		return err
	})
}

// unseed deletes all tasks of a namespace from the etcd of a subject.
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
	b.scene.await("an empty watch cache", func(context.Context) error {
		got, err := fetch(b.scene.Context(), s, cachedMode, jsonList, true)
		if err == nil && got.items > 0 {
			err = fmt.Errorf("got %d objects, want 0", got.items)
		}
		return err
	})
}

// configOf returns the configuration of clients of a subject.
func (b *bench) configOf(s *apiSubject) *rest.Config {
	if s.label() == directLabel {
		return b.scene.direct
	}
	return b.scene.aggregated
}
