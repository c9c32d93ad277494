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
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// plot writes an SVG plot for each measured part, with a bar for each median and a line from the minimum to the maximum
// of the rounds.
func (r *result) plot(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, p := range []struct {
		file, title, part, value string
		// log selects a logarithmic scale, for values of different magnitudes.
		log bool
	}{
		{"rate-chunks.svg", "Commands a second", partChunks, valueRate, false},
		{"utilisation-chunks.svg", "Utilisation of the slots, %", partChunks, valueUtilisation, false},
		{"cpu-operations.svg", "CPU of the server, ms a request", partOperations, valueCPU, false},
		{"rate-operations.svg", "Requests a second", partOperations, valueRate, false},
		{"cpu-lists.svg", "CPU of the server, ms an object listed", partLists, valueCPU, false},
		{"cpu-watches.svg", "CPU of the server, ms an event", partWatches, valueCPU, false},
		{"p99-watches.svg", "Delivery of an event, p99, ms, on a scale of powers of ten", partWatches, valueP99, true},
		{"rate-lifecycle.svg", "Tasks a second, from creation until collected", partLifeCycle, valueRate, false},
		{"memory.svg", "RSS, MiB for 100,000 objects", partMemory, valuePer100k, false},
		{"restart.svg", "Seconds from kill -9 until ready", partRestart, valueReady, false},
	} {
		if err := r.bars(filepath.Join(dir, p.file), p.title, p.part, p.value, p.log); err != nil {
			return fmt.Errorf("%s: %w", p.file, err)
		}
	}
	return nil
}

// bars writes a plot of one value of a part, with a group for each measurement and a colour for each subject. It writes
// nothing if the value was not measured.
func (r *result) bars(file, title, part, value string, log bool) error {
	var groups, series []string
	place := func(all *[]string, name string) int {
		for i, known := range *all {
			if known == name {
				return i
			}
		}
		*all = append(*all, name)
		return len(*all) - 1
	}
	bySeries := map[int]map[int]*spread{}
	for _, f := range r.Figures {
		// More encodings would not be distinguishable. The tables have all.
		if f.Part != part || f.Values[value] == nil || f.Encoding == gzipList.name || f.Encoding == tableList.name {
			continue
		}
		group, at := place(&groups, f.What), place(&series, strings.TrimSpace(f.Subject+" "+f.Encoding))
		if bySeries[at] == nil {
			bySeries[at] = map[int]*spread{}
		}
		bySeries[at][group] = f.Values[value]
	}
	if len(groups) == 0 {
		return nil
	}
	p := plot.New()
	p.Title.Text, p.Legend.Top = title, true
	for i, name := range series {
		colors := slices.Concat(plotutil.SoftColors, plotutil.DarkColors)
		b := &barSeries{color: colors[i%len(colors)], at: float64(i), of: float64(len(series)), values: bySeries[i]}
		p.Add(b)
		p.Legend.Add(name, b)
	}
	// A label in one line would overlap the next.
	for i, group := range groups {
		groups[i] = strings.ReplaceAll(group, ", ", ",\n")
	}
	p.NominalX(groups...)
	p.X.Min, p.X.Max, p.Y.Min = -0.5, float64(len(groups))-0.5, 0
	// Leave space for the legend.
	room := 0.1 + 0.08*float64(len(series))
	if log {
		p.Y.Scale, p.Y.Tick.Marker, p.Y.Min = plot.LogScale{}, plot.LogTicks{}, 1
		p.Y.Max = math.Pow(p.Y.Max, 1+room)
	} else {
		p.Y.Max *= 1 + room
	}
	return p.Save(vg.Length(max(6, 1.5*float64(len(groups))))*vg.Inch, 4*vg.Inch, file)
}

// barSeries draws the bars of one subject, each with a line from the minimum to the maximum.
type barSeries struct {
	color  color.Color
	at, of float64
	values map[int]*spread
}

// Plot implements plot.Plotter.
func (b *barSeries) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	width := 0.8 / b.of
	for group, s := range b.values {
		left := float64(group) - 0.4 + b.at*width
		c.FillPolygon(b.color, []vg.Point{
			{X: x(left), Y: y(p.Y.Min)}, {X: x(left), Y: y(s.Median)}, {X: x(left + 0.9*width), Y: y(s.Median)}, {X: x(left + 0.9*width), Y: y(p.Y.Min)},
		})
		middle := x(left + 0.45*width)
		c.StrokeLine2(plotter.DefaultLineStyle, middle, y(s.Min), middle, y(s.Max))
	}
}

// DataRange implements plot.DataRanger.
func (b *barSeries) DataRange() (xMin, xMax, yMin, yMax float64) {
	for group, s := range b.values {
		xMax, yMax = max(xMax, float64(group)), max(yMax, s.Max)
	}
	return 0, xMax, 0, yMax
}

// Thumbnail implements plot.Thumbnailer.
func (b *barSeries) Thumbnail(c *draw.Canvas) {
	c.FillPolygon(b.color, []vg.Point{{X: c.Min.X, Y: c.Min.Y}, {X: c.Min.X, Y: c.Max.Y}, {X: c.Max.X, Y: c.Max.Y}, {X: c.Max.X, Y: c.Min.Y}})
}
