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

// Package cost checks that the work of the server for a request grows at most linearly with the length of the request.
package cost

import (
	"flag"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/leat-dev/leat/pkg/generated/kinds"
	"github.com/leat-dev/leat/test/kit/inprocess"
)

var (
	seed = flag.Int("seed", 0, "selects the requests in which each field grows, and its values")
	all  = flag.Bool("all", false, "grow each field in all requests, with all values")
)

// The budgets of a request come from docs/reference/limits.md, with a margin for slower machines.
const (
	// cpuBudget is the CPU time of a request, three times the documented limit. Quadratic work takes at least ten times as
	// much.
	cpuBudget = 3 * time.Second * slowdown
	// allocationBudget is the number of bytes that a request may allocate. The documented limit is 100 MiB at a time,
	// which a test cannot measure from outside. It is less than the allocations, because encoders and decoders release one
	// copy after the other.
	allocationBudget = 5 * 100 << 20
	// refusalBudget is the CPU time of a request that is refused because it is too long.
	refusalBudget = cpuBudget / 4
)

// Growth is compared only where the cost is above the noise.
const (
	noticeable      = 100 * time.Millisecond * slowdown
	noticeableBytes = 64 << 20
	// margin is how much faster than the length the cost may grow. With it linear cost passes and quadratic cost
	// fails.
	margin = 2
	// someText is the length of most texts without -all. Cost that grows with a text grows with a shorter one too.
	someText = 64 << 10
	// attempts is how often an expensive request is sent. The cheapest attempt counts, because garbage collection and
	// other work add to some.
	attempts = 3
)

// namedLimit matches the number of accepted items or bytes in the message of an error.
var namedLimit = regexp.MustCompile(`(?:at most|more than) (\d+) (?:items|bytes|characters)`)

// prober sends requests with growing fields and checks their cost.
type prober struct {
	*testing.T
	*server
	requests, accepted, refused, compared, unencodable int
	costs                                              []string         // of all requests, formatted
	grown                                              sets.Set[string] // fields that have grown in several requests
}

// growth is a field that grows with one kind of value in one kind of request.
type growth struct {
	endpoint
	way
	place
	variant string
	grow    func(n int) any
}

func (r prepared) String() string {
	return fmt.Sprintf("%s: %s: %s, %d of %s", r.endpoint, r.way, r.place, r.n, r.variant)
}

// prepared is a request with n items or characters in the field.
type prepared struct {
	growth
	n            int
	method, path string
	body         []byte
}

func (p *prober) prepare(g growth, n int) prepared {
	method, path, body := p.request(g.endpoint, g.way, g.place, g.grow(n))
	return prepared{g, n, method, path, body}
}

// fit returns the request with n items or characters, or with as many as fit into a body. Its body is nil if the
// encoding cannot represent the value.
func (p *prober) fit(g growth, n int) prepared {
	limit := maxBody
	if g.encoding == inYAML {
		limit = maxYAML
	}
	for range 4 { // the rest of the body keeps its length, so one division is not enough
		if r := p.prepare(g, n); len(r.body) <= limit {
			return r
		} else {
			n = int(int64(n) * int64(limit) / int64(len(r.body)) * 99 / 100)
		}
	}
	return prepared{}
}

// cost sends a request until it is within the budgets, at most attempts times.
func (p *prober) cost(r prepared, cpu time.Duration, bytes uint64) spent {
	best := spent{cpu: 1 << 62}
	for range attempts {
		p.requests++
		got := p.send(r.method, r.path, r.mediaType, r.body)
		if got.cpu < best.cpu {
			best = got
		}
		if best.cpu <= cpu && best.bytes <= bytes {
			break
		}
	}
	return best
}

// within sends a request and checks the budgets.
func (p *prober) within(r prepared) spent {
	got := p.cost(r, cpuBudget, allocationBudget)
	if got.code < http.StatusBadRequest {
		p.accepted++
	}
	if got.cpu > cpuBudget || got.bytes > allocationBudget {
		p.Errorf("%s: got %v of CPU time and %d MiB, want at most %v and %d MiB; the response is %d: %.300s",
			r, got.cpu, got.bytes>>20, cpuBudget, allocationBudget>>20, got.code, got.says)
	}
	p.costs = append(p.costs, fmt.Sprintf("%6d ms %4d MiB %d %s", got.cpu.Milliseconds(), got.bytes>>20, got.code, r))
	return got
}

// probe grows a field to n items or characters, or to as many as the server accepts. Then it grows the field further by
// each of the factors.
func (p *prober) probe(g growth, n int, over ...int) {
	r := p.fit(g, n)
	if r.body == nil {
		p.unencodable++
		return
	}
	got := p.within(r)
	if m := namedLimit.FindStringSubmatch(got.says); m != nil {
		// The server may have refused the request for this limit before any other work.
		if limit, err := strconv.Atoi(m[1]); err == nil && limit < r.n {
			r = p.prepare(g, limit)
			got = p.within(r)
		}
	}
	if got.cpu > noticeable || got.bytes > noticeableBytes {
		p.compare(r, got)
	}
	for _, factor := range over {
		r := p.prepare(g, r.n*factor)
		got := p.cost(r, refusalBudget, allocationBudget)
		if got.code != http.StatusRequestEntityTooLarge {
			// The length is not the reason of the response, so the budgets of accepted requests apply.
			p.within(r)
			continue
		}
		p.refused++
		if got.cpu > refusalBudget || got.bytes > allocationBudget {
			p.Errorf("%s: got %v of CPU time and %d MiB until the refusal, want at most %v and %d MiB: %.300s",
				r, got.cpu, got.bytes>>20, refusalBudget, allocationBudget>>20, got.says)
		}
	}
}

// compare compares the cost of a request with that of requests with a half and with a quarter of the items.
func (p *prober) compare(r prepared, got spent) {
	p.compared++
	for _, factor := range []int{2, 4} {
		part := p.cost(p.prepare(r.growth, r.n/factor), cpuBudget, allocationBudget)
		if part.code != got.code {
			continue // the server does other work
		}
		cpu := time.Duration(factor) * margin * max(part.cpu, noticeable/4)
		bytes := uint64(factor) * margin * max(part.bytes, noticeableBytes/4)
		if got.cpu > cpu || got.bytes > bytes {
			got = p.cost(r, cpu, bytes)
		}
		if got.cpu > cpu || got.bytes > bytes {
			p.Errorf("%s: got %v of CPU time and %d MiB, but %v and %d MiB with 1/%d of the items: want linear growth",
				r, got.cpu, got.bytes>>20, part.cpu, part.bytes>>20, factor)
		}
	}
}

// chosen returns some of the ways to grow a field of small objects, others for each turn. Each encoding and each verb
// is among them.
func chosen(all map[string][]way, turn int) []way {
	ways := map[string][]way{}
	for encoding, of := range all {
		for _, w := range of {
			if w.stored != large {
				ways[encoding] = append(ways[encoding], w)
			}
		}
	}
	var some []way
	has := map[string]bool{}
	for _, encoding := range encodings {
		if of := ways[encoding]; len(of) > 0 {
			w := of[turn%len(of)]
			some = append(some, w)
			has[w.verb] = true
		}
	}
	for i := range ways[inJSON] { // JSON has all verbs
		if w := ways[inJSON][(turn+i)%len(ways[inJSON])]; !has[w.verb] {
			some = append(some, w)
			has[w.verb] = true
		}
	}
	return some
}

// probeAll grows a field in all ways and with all values.
func (p *prober) probeAll(e endpoint, at place, ways map[string][]way) {
	fillings := variants(at.of)
	for _, encoding := range encodings {
		for _, w := range ways[encoding] {
			for _, variant := range slices.Sorted(maps.Keys(fillings)) {
				p.probe(growth{e, w, at, variant, fillings[variant]}, at.most(w.mediaType), 2, 4)
			}
		}
	}
}

// probeSome grows a field in each encoding, with each verb and with all values, but not in all combinations. A field
// that another endpoint has too grows in only one of the endpoints in several ways.
func (p *prober) probeSome(e endpoint, at place, ways map[string][]way, turn int) {
	fillings := variants(at.of)
	names := slices.Sorted(maps.Keys(fillings))
	some := chosen(ways, turn)
	count := max(len(some), len(names))
	if shared := strings.TrimPrefix(at.String(), "spec.template."); !p.grown.Has(shared) {
		p.grown.Insert(shared)
	} else { // all kinds have the same metadata, and the template of a set is a task
		count = 1
		some = slices.Concat(some[turn%len(some):], some[:turn%len(some)])
	}
	for i := range count {
		w := some[i%len(some)]
		variant := names[(turn/len(some)+i)%len(names)]
		n := at.most(w.mediaType)
		var over []int
		if i == turn%count && (!at.isText() || turn%4 == 0) {
			over = []int{2 << (turn / len(some) % 2)}
		} else if at.isText() {
			n = min(n, someText)
		}
		// A merge is most expensive with a large stored object.
		if !at.isText() && turn%2 == 0 && i == (turn+1)%count && slices.Contains(e.stored, large) {
			w.stored = large
		}
		p.probe(growth{e, w, at, variant, fillings[variant]}, n, over...)
	}
}

func TestEndpointsCoverEveryKind(t *testing.T) {
	for _, kind := range kinds.All {
		if !slices.ContainsFunc(endpoints(), func(e endpoint) bool { return e.resource == kind.Resource && e.subresource == "" }) {
			t.Errorf("endpoints lacks %s", kind.Resource)
		}
	}
}

// TestRequestsCostWhatTheirLengthDoes grows each list, map and text of each kind to the accepted length and beyond,
// with valid and invalid values. No request may exceed its budget, and no cost above the noise may grow faster than the
// length.
//
// Each field grows in each encoding and with each verb, but not in all combinations. Another -seed has other
// combinations, and -all has all.
func TestRequestsCostWhatTheirLengthDoes(t *testing.T) {
	handler, scheme := inprocess.Serve(t, "--feature-gates=kube:CBORServingAndStorage=true")
	p := &prober{T: t, server: &server{handler: handler, codecs: serializer.NewCodecFactory(scheme)}, grown: sets.New[string]()}
	p.store()
	turn := *seed
	for _, e := range endpoints() {
		ways, before, requests := e.ways(), processorTime(), p.requests
		for _, place := range e.places() {
			turn++
			if *all {
				p.probeAll(e, place, ways)
			} else {
				p.probeSome(e, place, ways, turn)
			}
		}
		t.Logf("%s of a %s: %d requests, %v of CPU time including their encoding", e, e.kind, p.requests-requests, processorTime()-before)
	}
	slices.Sort(p.costs)
	slices.Reverse(p.costs)
	t.Logf("%d requests: %d accepted, %d refused for their length, %d compared with shorter ones; %d values cannot be encoded",
		p.requests, p.accepted, p.refused, p.compared, p.unencodable)
	for _, line := range p.costs[:20] {
		t.Log(line)
	}
	if p.accepted < p.requests/20 {
		t.Errorf("got %d accepted requests of %d, want at least 5 %%: the objects are not valid", p.accepted, p.requests)
	}
}

// store creates the objects that the requests change.
func (p *prober) store() {
	send := func(e endpoint, path string, o object, name string) {
		p.Helper()
		o["apiVersion"], o["kind"] = e.version.String(), e.kind
		metadata, ok := o["metadata"].(object)
		if !ok {
			metadata = object{}
			o["metadata"] = metadata
		}
		metadata["name"], metadata["namespace"] = name, namespace
		if got := p.send(http.MethodPost, path, runtime.ContentTypeJSON, p.encode(e, inJSON, o)); got.code != http.StatusCreated {
			p.Fatalf("creating %s in %s: got %d, want %d: %.500s", name, path, got.code, http.StatusCreated, got.says)
		}
	}
	for _, e := range endpoints() {
		switch {
		case e.subresource == "" && slices.Contains(e.verbs, create):
			send(e, e.resource, e.valid(), small)
			send(e, e.resource, enlarged(e), large)
			if e.resource == "tasks" {
				send(e, e.resource, e.valid(), bound)
			}
		case e.subresource == "binding":
			send(e, e.resource+"/"+bound+"/"+e.subresource, e.valid(), bound)
		}
	}
}

// enlarged returns an object of the kind that has about half of the size that etcd accepts.
func enlarged(e endpoint) object {
	o := e.valid()
	names := func(n int, prefix string) []any {
		list := make([]any, n)
		for i := range list {
			list[i] = fmt.Sprint(prefix, i)
		}
		return list
	}
	objects := func(n int, of func(name string) object) []any {
		list := names(n, "a")
		for i := range list {
			list[i] = of(list[i].(string))
		}
		return list
	}
	fields := func(n int) object {
		all := object{}
		for _, name := range names(n, "a") {
			all[name.(string)] = "a"
		}
		return all
	}
	o["metadata"] = object{
		"labels": fields(2_000), "annotations": fields(2_000),
		"finalizers": names(500, "example.com/a"),
		"ownerReferences": objects(500, func(name string) object {
			return object{"apiVersion": "v1", "kind": "A", "name": name, "uid": name}
		}),
	}
	task := object{"spec": object{
		"command": []any{"true"}, "args": names(10_000, "a"), "workerSelector": fields(64),
		"env": objects(2_000, func(name string) object { return object{"name": name, "value": "a"} }),
	}}
	switch e.kind {
	case "Task":
		o["spec"] = task["spec"]
	case "TaskSet":
		o["spec"].(object)["template"] = task
	}
	return o
}
