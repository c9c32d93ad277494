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

package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

// partSuffix ends the names of files that are not whole.
const partSuffix = ".part"

// outputFiles writes files of a directory. It follows no links below the directory.
type outputFiles struct {
	path      string
	root      *os.Root
	overwrite bool // files that exist
}

// openOutputFiles creates the directory unless it exists. The caller must close the root.
func openOutputFiles(path string, overwrite bool) (*outputFiles, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("--output-dir: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("--output-dir: %w", err)
	}
	return &outputFiles{path: path, root: root, overwrite: overwrite}, nil
}

// check returns an error if a file, or its unfinished part, exists and must not be overwritten.
func (f *outputFiles) check(name string) error {
	for _, name := range []string{name, name + partSuffix} {
		switch _, err := f.root.Lstat(name); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return fmt.Errorf("--output-dir: %w", err)
		case !f.overwrite:
			return fmt.Errorf("%s exists, and nothing was written: --overwrite replaces it; another --output-dir keeps it", filepath.Join(f.path, name))
		}
	}
	return nil
}

// localError is an error of a file that is written.
type localError struct{ error }

func (e localError) Unwrap() error { return e.error }

// create creates the part of a file.
func (f *outputFiles) create(name string) (*outputFile, error) {
	part := name + partSuffix
	if err := f.root.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, localError{err}
	}
	// A link in place of the file is not followed: the name must not exist.
	file, err := f.root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, localError{err}
	}
	return &outputFile{files: f, name: name, file: file}, nil
}

// outputFile is a file that is written. Its name is that of the part until it is whole.
type outputFile struct {
	files *outputFiles
	name  string
	file  *os.File
	size  int64
}

// Write implements io.Writer. Its errors are a localError.
func (f *outputFile) Write(p []byte) (int, error) {
	n, err := f.file.Write(p)
	f.size += int64(n)
	if err != nil {
		return n, localError{err}
	}
	return n, nil
}

// finish renames the part to the name of the file. Its errors are a localError.
func (f *outputFile) finish() error {
	if err := f.file.Close(); err != nil {
		return localError{err}
	}
	part := f.name + partSuffix
	if _, err := f.files.root.Lstat(f.name); err == nil && !f.files.overwrite {
		return localError{fmt.Errorf("%s was created meanwhile: the output is in %s", filepath.Join(f.files.path, f.name), filepath.Join(f.files.path, part))}
	}
	if err := f.files.root.Rename(part, f.name); err != nil {
		return localError{err}
	}
	return nil
}

// indexFiles writes lines that begin with an index to a file for each index, without the index.
type indexFiles struct {
	files *outputFiles
	name  func(index int) string // of the file
	// sizes are the sizes of the output of finished attempts, in order. Before the output of another index, the server
	// ends a line that the command has not ended. The sizes tell.
	sizes []outputSize
	// altered means that the output is cut or has timestamps, so that the sizes tell nothing.
	altered bool
	remarks remarks // of the server

	current   *outputFile
	index     int  // of current
	lineEnded bool // the last byte was a line feed
	written   indexCollector
	count     int
}

// outputSize is the size of the output of an attempt that is kept as a whole.
type outputSize struct {
	index int32
	bytes int64
}

func compareSizes(a, b outputSize) int {
	return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(a.bytes, b.bytes))
}

// check returns an error if a file of the indexes must not be overwritten.
func (w *indexFiles) check(of []indexes.Range) error {
	for index := range each(of) {
		if err := w.files.check(w.name(index)); err != nil {
			return err
		}
	}
	return nil
}

// copy copies a stream. The file of the last index is finished if the stream does not break.
func (w *indexFiles) copy(from io.Reader) error {
	reader := bufio.NewReaderSize(from, 64<<10)
	lineStart, hidden := true, false
	for {
		part, err := reader.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) && !errors.Is(err, io.EOF) {
			return err
		}
		if lineStart && len(part) > 0 {
			index, text, ok := cutPrefix(part)
			if hidden = !ok; hidden {
				w.remarks.add(part)
			} else if err := w.begin(index); err != nil {
				return err
			}
			part = text
		}
		if len(part) > 0 && !hidden {
			if _, err := w.current.Write(part); err != nil {
				return err
			}
			w.lineEnded = part[len(part)-1] == '\n'
		}
		if errors.Is(err, io.EOF) {
			return w.end()
		}
		lineStart = err == nil
	}
}

// begin begins the file of an index, unless it was begun.
func (w *indexFiles) begin(index int) error {
	if w.current != nil && w.index == index {
		return nil
	}
	if err := w.end(); err != nil {
		return err
	}
	var err error
	w.index = index
	w.current, err = w.files.create(w.name(index))
	return err
}

// end finishes the file of the current index, if there is one.
//
// The size of a file is compared with those of the attempts, to remove the line feed that the server has added.
func (w *indexFiles) end() error {
	file := w.current
	if file == nil {
		return nil
	}
	w.current = nil
	if !w.altered && w.lineEnded && w.printed(w.index, file.size-1) && !w.printed(w.index, file.size) {
		if err := file.file.Truncate(file.size - 1); err != nil {
			return localError{err}
		}
	}
	if err := file.finish(); err != nil {
		return err
	}
	w.written.add(w.index)
	w.count++
	return nil
}

// printed reports whether an attempt at the index has printed this number of bytes.
func (w *indexFiles) printed(index int, bytes int64) bool {
	_, found := slices.BinarySearchFunc(w.sizes, outputSize{int32(index), bytes}, compareSizes)
	return found
}

// abandon leaves the part of the current file, if there is one.
func (w *indexFiles) abandon() {
	if w.current != nil {
		_ = w.current.file.Close()
		w.current = nil
	}
}

// each returns the indexes in ranges.
func each(ranges []indexes.Range) iter.Seq[int] {
	return func(yield func(int) bool) {
		for _, r := range ranges {
			for index := r.First; index <= r.Last; index++ {
				if !yield(index) {
					return
				}
			}
		}
	}
}

// save writes the output of each selected index of the set that has started to a file. Nothing is written if one of the
// files must not be overwritten.
func (l *setLogs) save(ctx context.Context, path string, overwrite bool) error {
	tasks, err := l.tasks(ctx)
	if err != nil {
		return err
	}
	var started []indexes.Range
	for i := range tasks {
		started = append(started, indexes.Intersect(l.selectedIndexes(&tasks[i]), startedIndexes(&tasks[i]))...)
	}
	sizes, recorded, err := l.sizes(ctx)
	served := !notServed(err)
	switch {
	case !served && l.options.Attempt != nil:
		return errNoAttempts
	case served && err != nil:
		return err
	case served:
		succeeded, failed, _ := l.missingIndexes(nil)
		started = slices.Concat(started, recorded, succeeded, failed)
	}
	files, err := openOutputFiles(path, overwrite)
	if err != nil {
		return err
	}
	defer files.root.Close()
	numbers := taskstate.Numbers(l.set)
	name := func(index int) string { return strconv.Itoa(numbers.Number(index)) + ".log" }
	to := &indexFiles{files: files, name: name, sizes: sizes, remarks: remarks{out: l.streams.ErrOut}}
	if err := to.check(indexes.Union(started, nil)); err != nil {
		return err
	}
	if served {
		err = l.saveRead(ctx, to)
	} else {
		err = l.saveTasks(ctx, to, tasks)
	}
	to.abandon()
	to.remarks.end()
	fmt.Fprintf(l.streams.Out, "%s written to %s\n", plural(to.count, "file"), path)
	return err
}

// sizes returns the sizes of the output of the finished attempts at the selected indexes, and the indexes that have a
// record.
func (l *setLogs) sizes(ctx context.Context) (sizes []outputSize, recorded []indexes.Range, err error) {
	var all indexCollector
	for record, err := range l.recordReader().read(ctx, l.chosen) {
		switch {
		case err != nil:
			return nil, nil, err
		case record.Index == nil:
			continue
		case record.MissingBytes == 0:
			sizes = append(sizes, outputSize{*record.Index, record.OutputBytes})
		}
		all.add(int(*record.Index))
	}
	slices.SortFunc(sizes, compareSizes)
	return sizes, all.ranges(), nil
}

// saveRead writes what read would print to files. An attempt that is known to have printed nothing has an empty file.
func (l *setLogs) saveRead(ctx context.Context, to *indexFiles) error {
	to.altered = l.options.Timestamps || l.options.TailLines != nil || l.options.SinceSeconds != nil || l.options.LimitBytes != nil
	if err := l.readPieces(ctx, l.chosen, to.copy); err != nil {
		return err
	}
	silent, err := l.reportUnprinted(ctx, to.written.ranges())
	if err != nil {
		return err
	}
	var others indexCollector
	lastOnly := l.options.Attempt == nil && !l.options.Previous
	for index := range each(silent) {
		if !lastOnly || !to.printed(index, 0) {
			others.add(index)
			continue
		}
		if err := to.begin(index); err != nil {
			return err
		}
	}
	l.reportSilent(others.ranges())
	return to.end()
}

// saveTasks writes the output of the started indexes of tasks to files, for servers that have only that. Of several
// tasks of an index, it takes that of the last one.
func (l *setLogs) saveTasks(ctx context.Context, to *indexFiles, tasks []batch.Task) error {
	last := map[int]*batch.Task{}
	for i := range tasks {
		for index := range each(indexes.Intersect(l.selectedIndexes(&tasks[i]), startedIndexes(&tasks[i]))) {
			last[index] = &tasks[i]
		}
	}
	failed := 0
	for _, index := range slices.Sorted(maps.Keys(last)) {
		err := l.s.saveTask(ctx, to, last[index], index, l.options)
		if _, local := errors.AsType[localError](err); local || ctx.Err() != nil {
			return err
		}
		if err != nil {
			failed++
			fmt.Fprintln(l.streams.ErrOut, l.describe(fmt.Errorf("%s: %w", to.name(index), err)))
		}
	}
	started := indexes.Of(slices.Sorted(maps.Keys(last)))
	succeeded, lost, rest := l.missingIndexes(started)
	l.reportMissing(succeeded, "succeeded and %s gone, with what %s printed")
	l.reportMissing(lost, "failed and %s gone, with what %s printed")
	l.reportMissing(rest, "not run")
	if failed > 0 {
		return fmt.Errorf("the output of %s cannot be read", plural(failed, "index"))
	}
	return nil
}

// saveTask writes the output of one index of a task to a file.
func (s *session) saveTask(ctx context.Context, to *indexFiles, task *batch.Task, index int, options batch.TaskLogOptions) error {
	if taskstate.IsChunk(task) {
		options.Indexes = strconv.Itoa(index)
	}
	stream, err := s.api.Tasks(s.namespace).GetLogs(task.Name, &options).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	if err := to.begin(index); err != nil {
		return err
	}
	if _, err := io.Copy(to.current, stream); err != nil {
		to.abandon()
		return err
	}
	return to.end()
}

// save writes the output of the task to a file with its name, or the output of each index to a file with its number.
func (l *taskLogs) save(ctx context.Context, task *batch.Task, path string, overwrite bool) error {
	files, err := openOutputFiles(path, overwrite)
	if err != nil {
		return err
	}
	defer files.root.Close()
	to := &indexFiles{files: files, name: func(int) string { return task.Name + ".log" }}
	wanted := single(0)
	if taskstate.IsChunk(task) {
		to.name = func(index int) string { return strconv.Itoa(numbersIn(task, single(index))[0].First) + ".log" }
		wanted = indexes.Intersect(wantedIndexes(task, l.chosen, 1), startedIndexes(task))
	}
	if err := to.check(wanted); err != nil {
		return err
	}
	for index := range each(wanted) {
		if err := l.s.saveTask(ctx, to, task, index, l.options); err != nil {
			return err
		}
	}
	fmt.Fprintf(l.streams.Out, "%s written to %s\n", plural(to.count, "file"), path)
	return nil
}
