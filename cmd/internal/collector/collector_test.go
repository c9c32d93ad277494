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
	"runtime/debug"
	"testing"

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

func TestPercentageOutOfRange(t *testing.T) {
	for _, percent := range []int{-1, 0, 9, 10_001} {
		if errs := (&Options{Percent: percent}).Validate(); len(errs) != 1 {
			t.Errorf("%d: %v", percent, errs)
		}
	}
}
