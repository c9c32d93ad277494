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

package collector

import (
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func TestPercentage(t *testing.T) {
	before := debug.SetGCPercent(100)
	limit := debug.SetMemoryLimit(-1)
	t.Cleanup(func() {
		debug.SetGCPercent(before)
		debug.SetMemoryLimit(limit)
	})
	for name, test := range map[string]struct {
		args        []string
		environment string
		want        int
	}{
		"by default":         {want: 200},
		"by flag":            {args: []string{"--gc-percent=400"}, want: 400},
		"by the environment": {args: []string{"--gc-percent=400"}, environment: "50", want: 100}, // which Go has read at its start
	} {
		t.Run(name, func(t *testing.T) {
			debug.SetGCPercent(100)
			t.Setenv("GOGC", test.environment)
			o := &Options{Percent: 200}
			flags := pflag.NewFlagSet("", pflag.ContinueOnError)
			o.AddFlags(flags)
			if err := flags.Parse(test.args); err != nil {
				t.Fatal(err)
			}
			if errs := o.Validate(); errs != nil {
				t.Fatal(errs)
			}
			o.Apply()
			if got := debug.SetGCPercent(100); got != test.want {
				t.Errorf("the percentage is %d, want %d", got, test.want)
			}
		})
	}
}

func TestHeapMayGrowToTheFloor(t *testing.T) {
	const mebi = 1 << 20
	o := Defaults(200, "1Gi")
	for alive, want := range map[uint64]int{
		0: 102_300, 10 * mebi: 10_140, 256 * mebi: 300, 341 * mebi: 200, 342 * mebi: 200, 4096 * mebi: 200,
	} {
		if got := o.percentFor(alive); got != want {
			t.Errorf("%d MiB may grow by %d %%, want %d", alive/mebi, got, want)
		}
	}
	none := Defaults(50, "0")
	if got := none.percentFor(mebi); got != 50 {
		t.Errorf("without a floor a heap may grow by %d %%, want 50", got)
	}
}

// inProcess is an environment variable of the child process in which TestFloorIsHeld runs: it changes global state.
const inProcess = "LEAT_COLLECTOR_TEST"

func TestFloorIsHeld(t *testing.T) {
	if os.Getenv(inProcess) == "" {
		program, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		command := exec.CommandContext(t.Context(), program, "-test.run=^TestFloorIsHeld$")
		command.Env = append(os.Environ(), inProcess+"=true", environment+"=")
		if out, err := command.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	o := Defaults(200, "64Mi")
	o.Apply()
	until := func(what string, is func(percent uint64) bool) {
		t.Helper()
		for begun := time.Now(); ; runtime.Gosched() {
			sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
			metrics.Read(sample)
			if is(sample[0].Value.Uint64()) {
				return
			}
			if time.Since(begun) > time.Minute {
				t.Fatalf("%s the percentage is %d", what, sample[0].Value.Uint64())
			}
		}
	}
	runtime.GC()
	until("with little alive", func(percent uint64) bool { return percent > 200 })
	much := make([]byte, 64<<20)
	runtime.GC()
	until("with much alive", func(percent uint64) bool { return percent == 200 })
	runtime.KeepAlive(much)
	runtime.GC()
	until("with little alive again", func(percent uint64) bool { return percent > 200 })
}

func TestOptionsOutOfRange(t *testing.T) {
	for _, percent := range []int{-1, 0, 9, 10_001} {
		o := Defaults(percent, "1Gi")
		if errs := o.Validate(); len(errs) != 1 {
			t.Errorf("%d: %v", percent, errs)
		}
	}
	for floor, want := range map[string]int{"-1": 1, "2Ti": 1, "0": 0, "1Ti": 0} {
		o := Defaults(200, floor)
		if errs := o.Validate(); len(errs) != want {
			t.Errorf("%s: %v", floor, errs)
		}
	}
}
