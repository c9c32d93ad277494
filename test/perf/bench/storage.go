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
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leat-dev/leat/test/kit/host"
	"github.com/leat-dev/leat/test/kit/measure"
)

const (
	// largeNamespace has the objects of the goals. Further objects are in restNamespace.
	largeNamespace = "bench-large"
	restNamespace  = "bench-rest"
	largeObjects   = 100_000
	// Memory is steady when it changes by at most steadyShare within steadyTime, and after steadyLimit in any case.
	steadyTime  = 10 * time.Second
	steadyShare = 0.01
	steadyLimit = 90 * time.Second
	// crowd is the number of clients that list very many objects at the same time, like informers after a restart.
	crowd = 50
)

// Names of values of memory, in MiB, and of restarts, in seconds.
const (
	valueRSS       = "RSS MiB"
	valuePeak      = "peak RSS MiB"
	valueGrowth    = "peak growth MiB"
	valueList      = "the list itself MiB"
	valuePer100k   = "RSS MiB per 100,000 objects"
	valueReady     = "ready after s"
	valueFirstList = "first list after s"
	valueRefused   = "told to ask again"
	valueObjects   = "objects"
	whatEmpty      = "empty"
	whatWritten    = "objects written"
	whatRestarted  = "restarted with objects"
	whatKilled     = "kill -9"
)

// measureStorage fills the stores and measures memory and restarts. It restarts each server empty and full, so that the
// memory of earlier parts does not count.
func (b *bench) measureStorage() {
	servers := []struct {
		label   string
		process *host.Process
	}{{directLabel, b.scene.env.Server}, {crdLabel, b.scene.env.Host.APIServer}}
	empty := map[string]float64{}
	for _, server := range servers {
		b.restart(server.label, server.process)
		empty[server.label] = b.steadyRSS(server.label)
		b.collector.add(partMemory, whatEmpty, server.label, "", values{valueRSS: empty[server.label], valuePeak: b.memory(server.label, "VmHWM")})
	}
	large := min(b.Objects, largeObjects)
	b.scene.createNamespace(largeNamespace)
	b.scene.createNamespace(restNamespace)
	for _, server := range servers {
		b.note("writing %d objects for %s", b.Objects, server.label)
		b.seed(server.label, largeNamespace, large)
		if rest := b.Objects - large; rest > 0 {
			b.seed(server.label, restNamespace, rest)
		}
		b.stored(server.label, whatWritten, empty[server.label])
	}
	for _, server := range servers {
		ready, first := b.restart(server.label, server.process)
		v := values{valueObjects: float64(b.Objects), valueReady: ready, valueFirstList: first}
		b.collector.add(partRestart, whatKilled, server.label, "", v)
		b.note("%s with %d objects: ready after %.1f s, first list after %.1f s", server.label, b.Objects, ready, first)
		b.stored(server.label, whatRestarted, empty[server.label])
	}
	b.measureGrowth(large)
	b.measureCrowd(large)
	b.measureAmong()
}

// stored records the memory of a server with all objects.
func (b *bench) stored(label, what string, empty float64) {
	rss := b.steadyRSS(label)
	v := values{
		valueObjects: float64(b.Objects), valueRSS: rss, valuePeak: b.memory(label, "VmHWM"), valuePer100k: (rss - empty) * 1e5 / float64(b.Objects),
	}
	b.collector.add(partMemory, what, label, "", v)
	b.note("%s, %s: %.0f MiB, %.0f MiB per 100,000", label, what, rss, v[valuePer100k])
}

// serverOf returns the server process of a subject.
func serverOf(label string) string {
	if label == crdLabel {
		return hostServer
	}
	return leatServer
}

// memory returns a field of /proc/PID/status of the server of a subject, in MiB.
func (b *bench) memory(label, field string) float64 {
	mib, err := measure.Memory(b.scene.pid(serverOf(label)), field)
	b.scene.Check(err)
	return mib
}

// steadyRSS waits until the memory of a server is steady, and returns it.
func (b *bench) steadyRSS(label string) float64 {
	begun, since, level := time.Now(), time.Now(), b.memory(label, "VmRSS")
	for time.Since(since) < steadyTime && time.Since(begun) < steadyLimit {
		b.scene.pause(time.Second)
		if now := b.memory(label, "VmRSS"); math.Abs(now-level) > steadyShare*level {
			since, level = time.Now(), now
		}
	}
	return b.memory(label, "VmRSS")
}

// restart kills and starts a server. It returns the seconds until the server is ready and until it serves a list from
// its cache. The list is empty, of another namespace, so that its size does not count.
func (b *bench) restart(label string, process *host.Process) (ready, first float64) {
	b.scene.Check(process.Kill())
	begun := time.Now()
	b.scene.Check(process.Restart(b.scene.Context()))
	ready = time.Since(begun).Seconds()
	b.scene.await("the first list", func(ctx context.Context) error {
		// Older connections are broken.
		s := b.scene.tasks(label, false, namespace, 1)
		response, err := send(ctx, s.clients[0], s.collection+"?resourceVersion=0", jsonList.accept, "")
		if err == nil {
			_ = response.Body.Close()
		}
		return err
	})
	return ready, time.Since(begun).Seconds()
}

// measureGrowth measures how much the memory of Leat grows with a list of very many objects.
func (b *bench) measureGrowth(n int) {
	cases := []struct {
		mode     listMode
		encoding listEncoding
	}{
		{watchListMode, jsonList}, {watchListMode, protoList}, {pagedMode, jsonList}, {pagedMode, protoList},
		{cachedMode, jsonList}, {cachedMode, protoList}, {unpagedMode, jsonList}, {unpagedMode, protoList},
	}
	for round := range b.Rounds {
		for _, c := range rotated(cases, round) {
			s := b.scene.tasks(directLabel, c.encoding.proto, largeNamespace, 1)
			before := b.memory(directLabel, "VmRSS")
			b.scene.Check(measure.ResetPeak(b.scene.pid(leatServer)))
			got, err := fetch(b.scene.Context(), s, c.mode, c.encoding, false)
			b.scene.Check(err)
			v := values{
				valueObjects: float64(n), valueFirst: milliseconds(got.first), valueWhole: milliseconds(got.whole),
				valueList: float64(got.bytes) / (1 << 20), valueGrowth: b.memory(directLabel, "VmHWM") - before,
			}
			b.collector.add(partMemory, largeName(c.mode), directLabel, c.encoding.name, v)
			b.note("round %d: %s of %d objects, %s: first byte after %.0f ms, %.0f MiB, memory grew by %.0f MiB", round+1, c.mode.name, n, c.encoding.name,
				v[valueFirst], v[valueList], v[valueGrowth])
		}
	}
}

// measureCrowd lists very many objects of Leat with many clients at once, in both modes of informers. It measures the
// growth of memory and the time until all clients have their lists.
func (b *bench) measureCrowd(n int) {
	for _, mode := range []listMode{watchListMode, pagedMode} {
		before := b.memory(directLabel, "VmRSS")
		b.scene.Check(measure.ResetPeak(b.scene.pid(leatServer)))
		begun := time.Now()
		var clients sync.WaitGroup
		var refused atomic.Int64
		lists, errs := make([]*fetched, crowd), make([]error, crowd)
		for i := range crowd {
			s := b.scene.tasks(directLabel, true, largeNamespace, 1)
			clients.Go(func() {
				for {
					lists[i], errs[i] = fetch(b.scene.Context(), s, mode, protoList, false)
					if !errors.Is(errs[i], errBusy) {
						return
					}
					refused.Add(1)
					b.scene.pause(time.Second) // the Retry-After of the server, which informers respect
				}
			})
		}
		clients.Wait()
		elapsed := time.Since(begun)
		b.scene.Check(errors.Join(errs...))
		sum := int64(0)
		for _, list := range lists {
			sum += list.bytes
		}
		v := values{
			valueObjects: float64(n), valueWhole: milliseconds(elapsed), valueList: float64(sum) / crowd / (1 << 20),
			valueGrowth: b.memory(directLabel, "VmHWM") - before, valueRefused: float64(refused.Load()),
		}
		b.collector.add(partMemory, fmt.Sprintf("%s, of many, to %d clients", mode.name, crowd), directLabel, protoEncoding, v)
		b.note("%s of %d objects to %d clients at once: all after %.1f s, %.0f responses 429, memory grew by %.0f MiB", mode.name, n, crowd, elapsed.Seconds(),
			v[valueRefused], v[valueGrowth])
	}
}

// largeName returns the name of measurements of measureGrowth.
func largeName(mode listMode) string { return mode.name + ", of many" }
