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
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
)

// environment is the variable by which Go itself is told the percentage.
const environment = "GOGC"

// Options say how much memory is given for CPU.
type Options struct {
	// Percent of what is alive may be allocated before garbage is collected, as GOGC has it.
	Percent int
}

// AddFlags adds the flags.
func (o *Options) AddFlags(flags *pflag.FlagSet) {
	flags.IntVar(&o.Percent, "gc-percent", o.Percent, "How much is allocated before garbage is collected, in percent of what is alive: more needs less CPU, and up to 1 + percent/100 times what is alive. "+
		"Near 90 % of the container's memory limit, or $GOMEMLIMIT, garbage is collected whatever this says. $"+environment+" wins")
}

// Validate gives what is wrong with the options.
func (o *Options) Validate() []error {
	if o.Percent < 10 || o.Percent > 10_000 {
		return []error{fmt.Errorf("--gc-percent %d: must be from 10 to 10000; Go's own default is 100", o.Percent)}
	}
	return nil
}

// Apply sets up this process.
func (o *Options) Apply() {
	if os.Getenv(environment) == "" {
		debug.SetGCPercent(o.Percent)
	}
	limit, err := memlimit.Set()
	if err != nil {
		// Nothing depends on it but how soon the container is out of memory.
		klog.ErrorS(err, "The memory limit of the container could not be read: set $GOMEMLIMIT")
		return
	}
	klog.V(2).InfoS("Garbage is collected", "percent", o.Percent, "memoryLimit", limit)
}
