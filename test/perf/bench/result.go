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
	"cmp"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// spread has one value in all rounds.
type spread struct {
	Median, Min, Max float64
	Rounds           []float64
}

func newSpread(rounds []float64) *spread {
	s := &spread{Rounds: rounds, Min: slices.Min(rounds), Max: slices.Max(rounds)}
	sorted := slices.Sorted(slices.Values(rounds))
	middle := len(sorted) / 2
	s.Median = sorted[middle]
	if len(sorted)%2 == 0 {
		s.Median = (sorted[middle-1] + sorted[middle]) / 2
	}
	return s
}

// values are the values of one round, by name.
type values map[string]float64

// Names of values. CPU time is in milliseconds. The CPU time of each process is "cpu ms of <process>".
const (
	valueCPU      = "server cpu ms" // per request or event, of the processes that serve the subject
	valueRate     = "per second"
	valueP50      = "p50 ms"
	valueP99      = "p99 ms"
	valueSent     = "bytes sent"
	valueReceived = "bytes received"
	valueWrites   = "etcd writes"
	cpuOfPrefix   = "cpu ms of "
)

// figure is the result of one measurement.
type figure struct {
	// Part is one of parts.
	Part string
	// What is the name of the operation or mode. Subject and Encoding are those of the subject.
	What, Subject string
	Encoding      string `json:",omitempty"`
	Values        map[string]*spread
}

// result is the result of a run.
type result struct {
	Began    time.Time
	Seconds  float64
	Machine  machine
	Versions map[string]string
	Options  options
	// IdleCPU is the CPU time in ms a second by process, before the first request.
	IdleCPU values
	// Bytes are the sizes of an object as JSON and in each etcd.
	Bytes   map[string]int
	Figures []*figure
	Goals   []goal
	// Failure is the error that ended the run early, if any.
	Failure string `json:",omitempty"`
}

type machine struct {
	CPU, Kernel string
	Cores       int
	MemoryMiB   int
}

// thisMachine returns the machine that runs this command.
func thisMachine() machine {
	m := machine{Cores: runtime.NumCPU(), CPU: "unknown"}
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(data)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if data, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(data))
	}
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err == nil {
		m.MemoryMiB = int(uint64(info.Totalram) * uint64(info.Unit) >> 20)
	}
	return m
}

// find returns a figure, or nil if it was not measured.
func (r *result) find(part, what, subject, encoding string) *figure {
	for _, f := range r.Figures {
		if f.Part == part && f.What == what && f.Subject == subject && f.Encoding == encoding {
			return f
		}
	}
	return nil
}

// median returns the median of a value, or NaN if it was not measured.
func (f *figure) median(name string) float64 {
	if f == nil || f.Values[name] == nil {
		return math.NaN()
	}
	return f.Values[name].Median
}

// collector combines the values of rounds.
type collector struct {
	figures []*figure
	rounds  map[*figure][]values
}

func newCollector() *collector { return &collector{rounds: map[*figure][]values{}} }

// add records the values of a round.
func (c *collector) add(part, what, subject, encoding string, v values) {
	i := slices.IndexFunc(c.figures, func(f *figure) bool {
		return f.Part == part && f.What == what && f.Subject == subject && f.Encoding == encoding
	})
	if i < 0 {
		i = len(c.figures)
		c.figures = append(c.figures, &figure{Part: part, What: what, Subject: subject, Encoding: encoding})
	}
	c.rounds[c.figures[i]] = append(c.rounds[c.figures[i]], v)
}

// collect returns the figures in the order of their first rounds.
func (c *collector) collect() []*figure {
	for _, f := range c.figures {
		byName := map[string][]float64{}
		for _, round := range c.rounds[f] {
			for name, value := range round {
				byName[name] = append(byName[name], value)
			}
		}
		f.Values = map[string]*spread{}
		for name, rounds := range byName {
			f.Values[name] = newSpread(rounds)
		}
	}
	return c.figures
}

// quantile returns the smallest duration, in milliseconds, that is at least as long as the share q of the sorted
// durations. It returns 0 if there are none.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return float64(sorted[min(max(i, 0), len(sorted)-1)].Microseconds()) / 1000
}

// cpuValues sets the CPU time of each process between two counts, divided by n, and the sum of the servers.
func cpuValues(v values, before, after counters, servers []string, n float64) {
	for process, cpu := range after.cpu {
		v[cpuOfPrefix+process] = milliseconds(cpu-before.cpu[process]) / n
	}
	v[valueCPU] = 0
	for _, server := range servers {
		v[valueCPU] += v[cpuOfPrefix+server]
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// rotated returns the order of subjects in a round. Every other round is reversed, and each pair of rounds starts with
// another subject.
func rotated[T any](all []T, round int) []T {
	at := max(round, 0) / 2 % len(all)
	order := slices.Concat(all[at:], all[:at])
	if round%2 != 0 {
		slices.Reverse(order)
	}
	return order
}

// number formats x with three significant digits.
func number(x float64) string {
	switch size := math.Abs(x); {
	case math.IsNaN(x):
		return ""
	case size >= 100 || x == 0:
		return fmt.Sprintf("%.0f", x)
	case size >= 10:
		return fmt.Sprintf("%.1f", x)
	case size >= 0.1:
		return fmt.Sprintf("%.2f", x)
	default:
		return fmt.Sprintf("%.4f", x)
	}
}

// String returns the median, and the range if there are several rounds.
func (s *spread) String() string {
	if s == nil {
		return ""
	}
	if len(s.Rounds) == 1 {
		return number(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.Median), number(s.Min), number(s.Max))
}

// compareParts orders figures like parts.
func compareParts(a, b *figure) int {
	return cmp.Compare(slices.Index(parts, a.Part), slices.Index(parts, b.Part))
}
