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
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"k8s.io/client-go/rest"
)

// columns are the columns of the table of each part.
var columns = map[string][]string{
	partChunks: {valueIndexes, valueSeconds, valueRate, valueUtilisation, valueWritesIndex, valueCPUIndex, valueCPUCommand},
	partScale: {
		valueWorkers, valueIndexes, valuePending, valueSeconds, valueRate, valueWritesIndex, valueCPUAll, valueFirstBinding, valueBindings, valueCPUManager,
		peakOfPrefix + leatServer, peakOfPrefix + leatManager, peakOfPrefix + leatEtcd, valueEtcdFile, valueEtcdInUse,
	},
	partArchive: {
		valueIndexes, valueSegments, valueSeconds, valueRate, valueCPUSum, valueCPUStore, valueObjectsN, valueMiB, valueP50, valueP99, valueArrived,
		valueLate,
	},
	partOperations: {
		valueRate, valueP50, valueP99, valueCPU, cpuOfPrefix + hostServer, cpuOfPrefix + leatServer, cpuOfPrefix + hostEtcd, cpuOfPrefix + leatEtcd,
		valueSent, valueReceived, valueWrites,
	},
	partWatches: {valueEvents, valueRate, valueFailed, valueDelivered, valueMissing, valueTerminated, valueP50, valueP99, valueCPU, valueIdle, valueRSS, valueReceived},
	partLifeCycle: {
		valueRate, valueP50, valueP99, valueWritesTask, valueWritesOwn, valueCPUAll, valueCPU, cpuOfPrefix + leatEtcd, cpuOfPrefix + hostServer,
	},
	partMemory:  {valueObjects, valueRSS, valuePeak, valuePer100k, valueFirst, valueWhole, valueList, valueGrowth, valueRefused},
	partGrowth:  {valueObjects, valueRate, valueP50, valueP99, valueCPU, cpuOfPrefix + hostEtcd, cpuOfPrefix + leatEtcd},
	partRestart: {valueObjects, valueReady, valueFirstList},
	partLists:   {valueFirst, valueWhole, valueCPU, cpuOfPrefix + hostServer, cpuOfPrefix + leatServer, cpuOfPrefix + hostEtcd, cpuOfPrefix + leatEtcd, valueReceived},
}

// print prints a table for each part, and the goals.
func (r *result) print(out io.Writer) {
	m := r.Machine
	fmt.Fprintf(out, "Machine: %d cores of %s, %d MiB, Linux %s. Began %s, took %.0f s. %d clients, %d rounds: median (least–most).\n",
		m.Cores, m.CPU, m.MemoryMiB, m.Kernel, r.Began.Format("2006-01-02 15:04 MST"), r.Seconds, r.Options.Clients, r.Options.Rounds)
	if r.Failure != "" {
		fmt.Fprintln(out, "The run failed before its end: the results are incomplete.")
	}
	fmt.Fprintf(out, "Versions: %s.\n", joined(r.Versions, func(name string) string { return name + " " + r.Versions[name] }))
	if len(r.IdleCPU) > 0 {
		fmt.Fprintf(out, "Idle, CPU ms a second: %s.\n", joined(r.IdleCPU, func(name string) string {
			return strings.TrimPrefix(name, cpuOfPrefix) + " " + number(r.IdleCPU[name])
		}))
	}
	if len(r.Bytes) > 0 {
		fmt.Fprintf(out, "Bytes of a new object: %s.\n", joined(r.Bytes, func(name string) string { return fmt.Sprintf("%s %d", name, r.Bytes[name]) }))
	}
	for _, part := range parts {
		figures := slices.DeleteFunc(slices.Clone(r.Figures), func(f *figure) bool { return f.Part != part })
		if len(figures) > 0 {
			printPart(out, part, figures)
		}
	}
	fmt.Fprintf(out, "\n## Goals\n\n")
	table := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	fmt.Fprint(table, "| goal\t| reached\t| \t|\n|---\t|---\t|---\t|\n")
	for _, g := range r.Goals {
		fmt.Fprintf(table, "| %s\t| %s\t| %s\t|\n", g.Goal, g.Reached, g.Verdict)
	}
	_ = table.Flush() // an error of the terminal is not interesting
}

func printPart(out io.Writer, part string, figures []*figure) {
	fmt.Fprintf(out, "\n## %s\n\n", part)
	names := slices.DeleteFunc(slices.Clone(columns[part]), func(name string) bool {
		return !slices.ContainsFunc(figures, func(f *figure) bool { return f.Values[name] != nil })
	})
	table := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	fmt.Fprint(table, "| \t| \t| ")
	for _, name := range names {
		fmt.Fprintf(table, "\t| %s", name)
	}
	fmt.Fprintf(table, "\t|\n|---\t|---\t|---%s\t|\n", strings.Repeat("\t|---", len(names)))
	for _, f := range figures {
		fmt.Fprintf(table, "| %s\t| %s\t| %s", f.What, f.Subject, f.Encoding)
		for _, name := range names {
			fmt.Fprintf(table, "\t| %s", f.Values[name])
		}
		fmt.Fprintln(table, "\t|")
	}
	_ = table.Flush() // an error of the terminal is not interesting
}

func joined[T any](all map[string]T, text func(string) string) string {
	var texts []string
	for name := range all {
		texts = append(texts, text(name))
	}
	slices.Sort(texts)
	return strings.Join(texts, ", ")
}

// ratio is the quotient of two values.
type ratio struct {
	name  string
	value float64
}

// ratios returns the ratios of values of Leat to those of xargs, of a bare loop, of the CRD and of etcd.
func (r *result) ratios() []ratio {
	var all []ratio
	for _, f := range r.Figures {
		if f.Part == partChunks && f.Subject == localLabel {
			for _, yardstick := range []string{xargsLabel, loopLabel} {
				other := r.find(f.Part, f.What, yardstick, "")
				for _, value := range []string{valueRate, valueUtilisation} {
					if x := f.median(value) / other.median(value); !math.IsNaN(x) {
						all = append(all, ratio{fmt.Sprintf("%s, %s: %s, to that of %s", f.What, f.Subject, value, yardstick), x})
					}
				}
			}
		}
		if f.Subject != directLabel && f.Subject != aggregated {
			continue
		}
		name := strings.Join([]string{f.What, f.Subject, f.Encoding}, ", ")
		crd := r.find(f.Part, f.What, crdLabel, f.Encoding)
		if crd == nil {
			crd = r.find(f.Part, f.What, crdLabel, jsonEncoding)
		}
		add := func(what, value string, other *figure) {
			if x := f.median(value) / other.median(value); !math.IsNaN(x) && !math.IsInf(x, 0) {
				all = append(all, ratio{name + ": " + what, x})
			}
		}
		add("CPU of the server, to the CRD's", valueCPU, crd)
		if f.Part == partOperations {
			add("rate, to the CRD's", valueRate, crd)
			add("rate, to etcd's", valueRate, r.find(f.Part, f.What, etcdLabel, ""))
		}
	}
	return all
}

// printRatios prints the ratios, and those of an earlier run if there is one.
func (r *result) printRatios(out io.Writer, earlier *result) {
	before := map[string]float64{}
	if earlier != nil {
		for _, old := range earlier.ratios() {
			before[old.name] = old.value
		}
	}
	table := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	fmt.Fprint(table, "| ratio\t| now\t| before\t| now to before\t|\n|---\t|---\t|---\t|---\t|\n")
	for _, now := range r.ratios() {
		old, ok := before[now.name]
		if !ok {
			fmt.Fprintf(table, "| %s\t| %s\t| \t| \t|\n", now.name, number(now.value))
			continue
		}
		fmt.Fprintf(table, "| %s\t| %s\t| %s\t| %.2f\t|\n", now.name, number(now.value), number(old), now.value/old)
	}
	_ = table.Flush() // an error of the terminal is not interesting
}

// versions returns the versions of the servers.
func (s *scene) versions() map[string]string {
	all := map[string]string{}
	for name, config := range map[string]*rest.Config{leatServer: s.direct, hostServer: s.aggregated} {
		client, err := rest.HTTPClientFor(config)
		s.Check(err)
		var version struct{ GitVersion, GoVersion string }
		s.get(client, config.Host+"/version", &version)
		all[name] = version.GitVersion + " (" + version.GoVersion + ")"
	}
	status, err := s.stores[leatEtcd].Status(s.Context(), s.env.Etcd.Endpoint)
	s.Check(err)
	all["etcd"] = status.Version
	return all
}
