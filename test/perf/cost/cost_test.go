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

// Package cost holds the server to work that grows with the length of a request, and no faster.
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

	"github.com/leat-dev/leat/test/kit/inprocess"
)

var (
	seed = flag.Int("seed", 0, "which ways of writing each field is grown in, and what it is filled with")
	all  = flag.Bool("all", false, "grow each field in every way, with everything")
)

// What docs/reference/limits.md promises of one request, with room for machines that are slower than those it speaks of.
const (
	// cpuBudget is how much processor time a request may take: three times what is promised. What is quadratic takes ten
	// times as much at least.
	cpuBudget = 3 * time.Second * slowdown
	// allocationBudget is how many bytes a request may allocate. What it holds at a time, at most 100 MiB, cannot be
	// measured from outside: it is less, since encoders and decoders let go of one copy after the other.
	allocationBudget = 5 * 100 << 20
	// refusalBudget is how much processor time a request may take that is longer than what is accepted.
	refusalBudget = cpuBudget / 4
)

// Growth is looked at where it can be told from noise.
const (
	noticeable      = 100 * time.Millisecond * slowdown
	noticeableBytes = 64 << 20
	// margin is by how much more than its length the cost of a request may grow: between that and its square.
	margin = 2
	// someText is how many characters most texts have, unless all are sent: what grows with them grows with fewer, too.
	someText = 64 << 10
	// attempts is how often a request is sent that seems to be too dear. The least counts: garbage is collected, and
	// other work done, now and then.
	attempts = 3
)

// namedLimit is how an answer says how many items or bytes are accepted.
var namedLimit = regexp.MustCompile(`(?:at most|more than) (\d+) (?:items|bytes|characters)`)

// prober grows the fields and judges what that costs.
type prober struct {
	*testing.T
	*server
	requests, accepted, refused, compared, unwritten int
	dearest                                          []string
	grown                                            sets.Set[string] // fields that are grown in several ways
}

// growth is a field that is grown in one way.
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

// fit returns the request with n items or characters, or with as many as fit into a body. It has no body if that
// cannot be written.
func (p *prober) fit(g growth, n int) prepared {
	limit := maxBody
	if g.encoding == inYAML {
		limit = maxYAML
	}
	for range 4 { // what is around them does not become shorter
		if r := p.prepare(g, n); len(r.body) <= limit {
			return r
		} else {
			n = int(int64(n) * int64(limit) / int64(len(r.body)) * 99 / 100)
		}
	}
	return prepared{}
}

// cost sends a request until it is within the budgets, or was sent often enough.
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

// within sends a request and holds it to the budgets.
func (p *prober) within(r prepared) spent {
	got := p.cost(r, cpuBudget, allocationBudget)
	if got.code < http.StatusBadRequest {
		p.accepted++
	}
	if got.cpu > cpuBudget || got.bytes > allocationBudget {
		p.Errorf("%s takes %v and %d MiB, and is answered %d: %.300s", r, got.cpu, got.bytes>>20, got.code, got.says)
	}
	p.dearest = append(p.dearest, fmt.Sprintf("%6d ms %4d MiB %d %s", got.cpu.Milliseconds(), got.bytes>>20, got.code, r))
	return got
}

// probe grows a field to n items or characters, or to as many as are accepted, and for each of the factors to so many
// times as much.
func (p *prober) probe(g growth, n int, over ...int) {
	r := p.fit(g, n)
	if r.body == nil {
		p.unwritten++
		return
	}
	got := p.within(r)
	if m := namedLimit.FindStringSubmatch(got.says); m != nil {
		// More than the kind accepts can be refused before the rest of it is looked at.
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
			// It is refused for another reason, or is no longer than what is accepted, and may cost what that may.
			p.within(r)
			continue
		}
		p.refused++
		if got.cpu > refusalBudget || got.bytes > allocationBudget {
			p.Errorf("%s is refused after %v and %d MiB: %.300s", r, got.cpu, got.bytes>>20, got.says)
		}
	}
}

// compare holds what a request has cost to what one with a half and one with a quarter of the items do.
func (p *prober) compare(r prepared, got spent) {
	p.compared++
	for _, factor := range []int{2, 4} {
		part := p.cost(p.prepare(r.growth, r.n/factor), cpuBudget, allocationBudget)
		if part.code != got.code {
			continue // other work is done
		}
		cpu := time.Duration(factor) * margin * max(part.cpu, noticeable/4)
		bytes := uint64(factor) * margin * max(part.bytes, noticeableBytes/4)
		if got.cpu > cpu || got.bytes > bytes {
			got = p.cost(r, cpu, bytes)
		}
		if got.cpu > cpu || got.bytes > bytes {
			p.Errorf("%s takes %v and %d MiB, with 1/%d of them %v and %d MiB", r, got.cpu, got.bytes>>20, factor, part.cpu, part.bytes>>20)
		}
	}
}

// chosen returns the ways in which a field of small objects is grown, in turn: each encoding and each verb is among them.
func chosen(all map[string][]way, turn int) []way {
	ways := map[string][]way{}
	for encoding, of := range all {
		for _, w := range of {
			if w.stored != large {
				ways[encoding] = append(ways[encoding], w)
			}
		}
	}
	var hand []way
	has := map[string]bool{}
	for _, encoding := range encodings {
		if of := ways[encoding]; len(of) > 0 {
			w := of[turn%len(of)]
			hand = append(hand, w)
			has[w.verb] = true
		}
	}
	for i := range ways[inJSON] { // in which there are all verbs
		if w := ways[inJSON][(turn+i)%len(ways[inJSON])]; !has[w.verb] {
			hand = append(hand, w)
			has[w.verb] = true
		}
	}
	return hand
}

// probeAll grows a field in all ways, with everything.
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

// probeSome grows a field in each encoding, by each verb, and with everything, but not in all ways. Fields that an
// endpoint before has had are grown in one way.
func (p *prober) probeSome(e endpoint, at place, ways map[string][]way, turn int) {
	fillings := variants(at.of)
	names := slices.Sorted(maps.Keys(fillings))
	hand := chosen(ways, turn)
	count := max(len(hand), len(names))
	if shared := strings.TrimPrefix(at.String(), "spec.template."); !p.grown.Has(shared) {
		p.grown.Insert(shared)
	} else { // the metadata of all kinds, and tasks in sets, are the same
		count = 1
		hand = slices.Concat(hand[turn%len(hand):], hand[:turn%len(hand)])
	}
	for i := range count {
		w := hand[i%len(hand)]
		variant := names[(turn/len(hand)+i)%len(names)]
		n := at.most(w.mediaType)
		var over []int
		if i == turn%count && (!at.isText() || turn%4 == 0) {
			over = []int{2 << (turn / len(hand) % 2)}
		} else if at.isText() {
			n = min(n, someText)
		}
		// What is merged costs most where there is most to merge it with.
		if !at.isText() && turn%2 == 0 && i == (turn+1)%count && slices.Contains(e.stored, large) {
			w.stored = large
		}
		p.probe(growth{e, w, at, variant, fillings[variant]}, n, over...)
	}
}

// TestRequestsCostWhatTheirLengthDoes grows each list, map and text of each kind to what is accepted, valid and invalid,
// and beyond. None may cost more than the budget, nor, where that can be told from noise, grow faster than its length.
//
// Each field is written in each encoding and by each verb, not in all pairs of them: another seed has other pairs, and
// -all has all of them.
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
		t.Logf("%s of a %s: %d requests, %v with what it takes to write them", e, e.kind, p.requests-requests, processorTime()-before)
	}
	slices.Sort(p.dearest)
	slices.Reverse(p.dearest)
	t.Logf("%d requests, of which %d are accepted, %d refused by their length, and %d compared with less; %d that cannot be written",
		p.requests, p.accepted, p.refused, p.compared, p.unwritten)
	for _, d := range p.dearest[:20] {
		t.Log(d)
	}
	if p.accepted < p.requests/20 {
		t.Errorf("of %d requests only %d are accepted: the objects are not what the server takes", p.requests, p.accepted)
	}
}

// store creates the objects that requests are about.
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
			p.Fatalf("creating %s of %s is answered %d: %.500s", name, path, got.code, got.says)
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

// enlarged returns an object of the kind that is about half as large as may be stored.
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
