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
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/faultproxy"
	"github.com/leat-dev/leat/test/kit/host"
)

var (
	kills = flag.Int("kills", 50, "how often TestArchive kills a worker or a server")
	seed  = flag.Uint64("seed", 0, "the seed of random decisions, as a former run has logged it; 0 for a new one")
)

const (
	// killSuites is the number of servers and workers that are killed at the same time.
	killSuites = 4
	// killsPerSet is how often the upload of the segment of one set is ended by a kill.
	killsPerSet = 4
	// outputSize is the size of the output of an index, and indexes the number of indexes of a set. A segment must be so
	// large that its upload is in the middle after half of it was sent, whatever else a worker sends.
	outputSize, indexes = 200_000, 4
)

// point is a point in an upload at which a process is killed.
type point struct {
	name string
	// hold makes the next upload stop at the point. It returns a channel that is closed or has an element when an upload
	// is there.
	hold func(*killing) <-chan struct{}
}

var points = []point{
	{"the server has half of the segment", func(k *killing) <-chan struct{} { return k.toServer.StallAfter(indexes * outputSize / 2) }},
	{"the store has half of the segment", func(k *killing) <-chan struct{} {
		return k.holdUpload(func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
			_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
		})
	}},
	{"the store has the segment, and the server does not know", func(k *killing) <-chan struct{} {
		return k.holdUpload(func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
			forward.ServeHTTP(httptest.NewRecorder(), r)
		})
	}},
}

// killing is a site whose processes are killed.
type killing struct {
	*site
	toServer *faultproxy.Proxy
	toStore  *s3Proxy
	release  chan struct{} // closed to end the held request to the store
}

// holdUpload makes the next requests that store an object stop after do, until resume. They end without an answer.
func (k *killing) holdUpload(do fault) <-chan struct{} {
	held, release := make(chan struct{}, 1), make(chan struct{})
	k.release = release
	k.toStore.set(ofUploads(func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		do(w, r, forward)
		select {
		case held <- struct{}{}:
		default:
		}
		<-release
		panic(http.ErrAbortHandler)
	}))
	return held
}

// resume ends what a point holds.
func (k *killing) resume() {
	k.toServer.Resume()
	k.toStore.set(nil)
	if k.release != nil {
		close(k.release)
		k.release = nil
	}
}

// hold makes the next upload stop at a random point.
func (k *killing) hold(random *rand.Rand) <-chan struct{} {
	point := points[random.IntN(len(points))]
	k.t.Logf("until %s", point.name)
	return point.hold(k)
}

// awaitUpload waits until an upload is held. If the segment may arrive before, it reports whether it has not.
func (k *killing) awaitUpload(held <-chan struct{}, mayArrive bool) bool {
	k.t.Helper()
	var isHeld bool
	kit.Eventually(k.t, "an upload is held", func(context.Context) error {
		select {
		case <-held:
			isHeld = true
			return nil
		default:
		}
		if mayArrive && len(k.spooled()) == 0 {
			return nil
		}
		return await.ErrNotYet
	})
	return isHeld
}

// firstSeed returns the seed of the run.
func firstSeed() uint64 {
	if *seed != 0 {
		return *seed
	}
	return uint64(time.Now().UnixNano())
}

// testKilled kills the worker and the server in the middle of uploads.
func testKilled(t *testing.T, c *cluster, random *rand.Rand) {
	k := &killing{toStore: newS3Proxy(t, c.s3)}
	t.Cleanup(k.resume)
	k.site = c.newServer(t, c.s3, k.toStore.flags(c.s3)...)
	toServer, config := faultproxy.Before(t, k.Worker(t, k.namespace, workerName))
	k.toServer = toServer
	// It is not awaited: the first that it sends may be held.
	k.worker = kit.Must(host.StartProcess(t.Context(), host.Command{
		Name: "leat-worker", Path: kit.Program(t, "leat-worker"), Dir: t.ArtifactDir(),
		Args: append([]string{"--kubeconfig=" + k.Kubeconfig(t, config, k.namespace), "-v=2"}, k.workerFlags()...),
	}))(t)
	t.Cleanup(func() { kit.Check(t, errors.Join(k.worker.Err(), k.worker.Kill())) })

	var sets []*batch.TaskSet
	outputs := map[string][]string{}
	for done := 0; done*killSuites < *kills; {
		name := fmt.Sprintf("set-%d", len(sets))
		for range indexes {
			outputs[name] = append(outputs[name], randomLine(random))
		}
		held := k.hold(random)
		k.create(name, outputs[name]...)
		k.awaitUpload(held, false)
		sets = append(sets, k.complete(name))
		for i := range killsPerSet {
			if i > 0 && !k.awaitUpload(held, true) {
				break // the segment has arrived in spite of the last kill
			}
			victim := k.worker
			if random.IntN(2) == 0 {
				victim = k.Server
			}
			kit.Check(t, victim.Kill())
			done++
			t.Logf("kill %d: %s", done, filepath.Base(victim.LogFile()))
			k.resume()
			if i+1 < killsPerSet {
				held = k.hold(random)
			}
			kit.Check(t, victim.Restart(t.Context()))
		}
		k.resume()
		k.arrived()
	}
	t.Logf("%d sets", len(sets))
	for _, set := range sets {
		k.stores(set, outputs[set.Name]...)
	}
	last := sets[len(sets)-1].Name
	k.leat("logs", last).expect(t, 0, prefixed(last, outputs[last]), "")
	k.leat("history", last).expectRows(t, indexes, "")
}

// randomLine returns an output of one line that cannot be compressed to half of its size.
func randomLine(random *rand.Rand) string {
	content := make([]byte, outputSize/4*3)
	for i := range content {
		content[i] = byte(random.Uint32())
	}
	return base64.StdEncoding.EncodeToString(content) + "\n"
}
