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

// Package collector sets up Go's garbage collector for a server, whose heap is mostly what it keeps for others.
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

// environment is the variable by which Go itself is told the percentage.
const environment = "GOGC"

// Options say how much memory is given for CPU.
type Options struct {
	// Percent of what is alive may be allocated before garbage is collected, as GOGC has it.
	Percent int
	// Floor is how many bytes the heap may have before garbage is collected, however little is alive in it.
	Floor resource.QuantityValue
}

// Defaults are options with that percentage and floor.
func Defaults(percent int, floor string) Options {
	return Options{percent, resource.QuantityValue{Quantity: resource.MustParse(floor)}}
}

// AddFlags adds the flags.
func (o *Options) AddFlags(flags *pflag.FlagSet) {
	flags.IntVar(&o.Percent, "gc-percent", o.Percent, "How much is allocated before garbage is collected, in percent of what is alive: more needs less CPU, and up to 1 + percent/100 times what is alive. "+
		"Near 90 % of the container's memory limit, or $GOMEMLIMIT, garbage is collected whatever this says. $"+environment+" wins")
	flags.Var(&o.Floor, "gc-heap-floor", "How large the heap may become before garbage is collected, however little is alive, like 512Mi: who keeps little need not be at it all the time. 0 is none. "+
		"The container's memory limit and $"+environment+" win here, too")
}

// Validate gives what is wrong with the options.
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

// maxFloor is more than anybody gives to one process.
const maxFloor = 1 << 40

// Apply sets up this process.
func (o *Options) Apply() {
	if os.Getenv(environment) == "" {
		debug.SetGCPercent(o.Percent)
		if o.Floor.Value() > 0 {
			o.adjustAfterCollection()
		}
	}
	limit, err := memlimit.Set()
	if err != nil {
		// Nothing depends on it but how soon the container is out of memory.
		klog.ErrorS(err, "The memory limit of the container could not be read: set $GOMEMLIMIT")
		return
	}
	klog.V(2).InfoS("Garbage is collected", "percent", o.Percent, "heapFloor", o.Floor.String(), "memoryLimit", limit)
}

// mark is garbage from the beginning, and tells when that is collected. It holds a pointer, or it could share its place with what is alive.
type mark struct{ _ *mark }

// adjustAfterCollection sets the percentage anew each time that garbage has been collected, and more is known of what is alive.
func (o *Options) adjustAfterCollection() {
	runtime.AddCleanup(&mark{}, func(o *Options) {
		debug.SetGCPercent(o.percentFor(alive()))
		o.adjustAfterCollection()
	}, o)
}

// percentFor gives by how many percent a heap may grow in which so many bytes are alive: to the floor at least.
func (o *Options) percentFor(alive uint64) int {
	return max(o.Percent, int(uint64(o.Floor.Value())*100/max(alive, minAlive))-100)
}

// minAlive is less than is alive in any process, and keeps the percentage in bounds.
const minAlive = 1 << 20

// alive is how many bytes the last collection has left.
func alive() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
