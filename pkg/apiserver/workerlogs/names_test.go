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

package workerlogs

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// names is a DNS server whose answers the function returns.
type names struct {
	answer func() []string
}

// resolver returns a resolver that queries only the server.
func (n names) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go n.serve(far)
		return near, nil
	}}
}

// serve answers one query. Messages have a length prefix, as over TCP.
func (n names) serve(connection net.Conn) {
	defer connection.Close()
	var length [2]byte
	if _, err := io.ReadFull(connection, length[:]); err != nil {
		return
	}
	question := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(connection, question); err != nil {
		return
	}
	const header, typeA, classIN = 12, 1, 1
	end := header + slices.Index(question[header:], 0) + 5 // the name, its type and class
	answer := slices.Clone(question[:end])
	binary.BigEndian.PutUint16(answer[2:], 0x8180)          // a response without error
	binary.BigEndian.PutUint16(answer[4:], 1)               // one question
	copy(answer[6:header], []byte{0, 0, 0, 0, 0, 0})        // no records so far
	if binary.BigEndian.Uint16(question[end-4:]) == typeA { // there are only A records
		for i, address := range n.answer() {
			binary.BigEndian.PutUint16(answer[6:], uint16(i+1))
			answer = append(answer, 0xc0, header, 0, typeA, 0, classIN, 0, 0, 0, 0, 0, 4) // of the name, with a TTL of 0
			answer = append(answer, netip.MustParseAddr(address).AsSlice()...)
		}
	}
	// The write fails only if the resolver has closed the connection.
	_, _ = connection.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
}

// TestDNSRebinding changes the addresses of a name between queries. The client must dial the address that it has
// checked.
func TestDNSRebinding(t *testing.T) {
	const refused = "no worker can be at address 169.254.169.254"
	f := newFixture(t)
	var asked atomic.Int32
	endpoint := f.worker(t, v1alpha1.WorkerServerName, func(out http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		io.WriteString(out, "a log")
	})
	endpoint.Host = "worker.example.com."
	for name, test := range map[string]struct {
		// answers are the answers to successive queries.
		answers [][]string
		ranges  []string
		// want holds the result of each read: a log, or a part of an error.
		want []string
	}{
		"the metadata of the cloud":   {answers: [][]string{{"169.254.169.254"}}, want: []string{refused}},
		"metadata on another link":    {answers: [][]string{{"169.254.170.2"}}, want: []string{"no worker can be at address 169.254.170.2"}},
		"the link":                    {answers: [][]string{{"169.254.1.1"}}, want: []string{"address 169.254.1.1 is in 169.254.0.0/16"}},
		"zero":                        {answers: [][]string{{"0.0.0.0"}}, want: []string{"no worker can be at address 0.0.0.0"}},
		"this machine":                {answers: [][]string{{"127.0.0.1"}}, ranges: []string{"10.0.0.0/8"}, want: []string{"address 127.0.0.1 is in 127.0.0.0/8"}},
		"nothing":                     {answers: [][]string{{}}, want: []string{"no such host"}},
		"a worker":                    {answers: [][]string{{"127.0.0.1"}}, want: []string{"a log"}},
		"a worker, then the metadata": {answers: [][]string{{"127.0.0.1"}, {"169.254.169.254"}, {"127.0.0.1"}}, want: []string{"a log", refused, "a log"}},
		"the metadata or a worker":    {answers: [][]string{{"169.254.169.254", "127.0.0.1"}}, want: []string{"a log"}},
		"twice the metadata":          {answers: [][]string{{"169.254.169.254", "169.254.169.254"}}, want: []string{refused}},
	} {
		t.Run(name, func(t *testing.T) {
			options := f.options
			if test.ranges != nil {
				options.AddressRanges = test.ranges
			}
			client, err := options.New()
			if err != nil {
				t.Fatal(err)
			}
			questions := 0
			client.resolver = names{answer: func() []string {
				questions++
				return test.answers[questions-1]
			}}.resolver()
			before, logs := asked.Load(), 0
			for i, want := range test.want {
				got, err := read(t, client, endpoint)
				if err != nil {
					got = err.Error()
				} else {
					logs++
				}
				if !strings.Contains(got, want) {
					t.Errorf("read %d: got %q, want %q", i+1, got, want)
				}
			}
			if questions != len(test.answers) {
				t.Errorf("got %d queries, want %d", questions, len(test.answers))
			}
			if n := int(asked.Load() - before); n != logs {
				t.Errorf("the worker got %d requests for %d logs", n, logs)
			}
		})
	}
}

func read(t *testing.T, client *Client, endpoint *batch.WorkerEndpoint) (string, error) {
	t.Helper()
	stream, err := client.OpenLog(t.Context(), &batch.Task{}, endpoint, &batch.TaskLogOptions{})
	if err != nil {
		return "", err
	}
	defer stream.Close()
	content, err := io.ReadAll(stream)
	return string(content), err
}
