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

// Package collector configures Go's garbage collector for a server, whose heap consists mostly of long-lived caches.
package collector

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/klog/v2"
)

// environment is the variable from which the Go runtime reads the percentage.
const environment = "GOGC"

// Options trade memory for CPU.
type Options struct {
	// Percent is the allocation, in percent of the live heap, after which garbage is collected, as in GOGC.
	Percent int
	// Floor is the heap size, in bytes, below which garbage is not collected.
	Floor resource.QuantityValue
}

// Defaults returns options with the percentage and the floor.
func Defaults(percent int, floor string) Options {
	return Options{percent, resource.QuantityValue{Quantity: resource.MustParse(floor)}}
}

// AddFlags adds the flags.
func (o *Options) AddFlags(flags *pflag.FlagSet) {
	flags.IntVar(&o.Percent, "gc-percent", o.Percent, "Allocation after which garbage is collected, in percent of the live heap. A higher value needs less CPU, and up to 1 + percent/100 times the memory of the live heap. "+
		"Near 90 % of the container's memory limit, or of $GOMEMLIMIT, garbage is collected regardless. $"+environment+" takes precedence")
	flags.Var(&o.Floor, "gc-heap-floor", "Heap size below which garbage is not collected, like 512Mi. It avoids frequent collections of a small heap. 0 disables it. "+
		"The container's memory limit and $"+environment+" take precedence")
}

// Validate returns the errors of the options.
func (o *Options) Validate() []error {
	var errs []error
	if o.Percent < 10 || o.Percent > 10_000 {
		errs = append(errs, fmt.Errorf("--gc-percent %d: must be from 10 to 10000; Go's own default is 100", o.Percent))
	}
	if floor := o.Floor.Value(); floor < 0 || floor > maxFloor {
		errs = append(errs, fmt.Errorf("--gc-heap-floor %s: must be from 0 to %s", o.Floor.String(), resource.NewQuantity(maxFloor, resource.BinarySI)))
	}
	return errs
}

// maxFloor is the largest accepted floor.
const maxFloor = 1 << 40

// Apply configures the garbage collector of this process.
func (o *Options) Apply() {
	if os.Getenv(environment) == "" {
		debug.SetGCPercent(o.Percent)
		if o.Floor.Value() > 0 {
			o.adjustAfterCollection()
		}
	}
	limit, err := memlimit.Set()
	if err != nil {
		// Continue: without a limit the container only runs out of memory sooner.
		klog.ErrorS(err, "Failed to read the memory limit of the container; set $GOMEMLIMIT")
		return
	}
	klog.V(2).InfoS("Configured the garbage collector", "percent", o.Percent, "heapFloor", o.Floor.String(), "memoryLimit", limit)
}

// mark is an unreachable object whose cleanup signals a collection. It holds a pointer, because the runtime packs
// objects without pointers together with live ones.
type mark struct{ _ *mark }

// adjustAfterCollection updates the percentage after each collection, for the size of the live heap that it found.
func (o *Options) adjustAfterCollection() {
	runtime.AddCleanup(&mark{}, func(o *Options) {
		debug.SetGCPercent(o.percentFor(alive()))
		o.adjustAfterCollection()
	}, o)
}

// percentFor returns the percentage for a live heap of that many bytes: Percent, or more if the heap then stays below
// the floor.
func (o *Options) percentFor(alive uint64) int {
	return max(o.Percent, int(uint64(o.Floor.Value())*100/max(alive, minAlive))-100)
}

// minAlive is a lower limit for the live heap, which limits the percentage.
const minAlive = 1 << 20

// alive returns the size of the live heap after the last collection, in bytes.
func alive() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
