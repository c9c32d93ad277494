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

package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/leat-dev/leat/pkg/archive/lineio"
	"github.com/leat-dev/leat/pkg/worker/attempt"
)

// output is that of one attempt: a *Log or a *Finished.
type output interface {
	Read(ctx context.Context, w io.Writer, flush func(), options ReadOptions) error
}

var (
	_ output = &Log{}
	_ output = &Finished{}
)

// Finished is a finished attempt whose output is kept elsewhere.
type Finished struct {
	ID attempt.ID
	// Started and Ended are the times of the command.
	Started, Ended time.Time
	// Output returns the output. found is false if it is not kept any more.
	Output func(context.Context) (output []byte, found bool, err error)
}

// Read writes the output to w like Log.Read. As the times of lines are not kept, options.Timestamps write the start of
// the command before each line, and options.Since select the whole output of an attempt that has not ended before. The
// error is ErrRemoved if the output is not kept any more.
func (f *Finished) Read(ctx context.Context, w io.Writer, _ func(), options ReadOptions) error {
	if f.Ended.Before(options.Since) {
		return nil
	}
	content, found, err := f.Output(ctx)
	if err != nil {
		return err
	}
	if !found {
		return ErrRemoved
	}
	if options.TailLines != nil {
		content = lineio.Last(content, *options.TailLines)
	}
	if options.LimitBytes != nil {
		w = &limited{w, *options.LimitBytes}
	}
	if options.Timestamps {
		content = lineio.WithTime(content, f.Started)
	}
	if len(content) > 0 {
		_, err = w.Write(content)
	}
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

// firstFinishedAt returns the position of the first attempt at an index or at one after it.
func firstFinishedAt(finished []Finished, index int) int {
	i, _ := slices.BinarySearchFunc(finished, index, func(f Finished, index int) int {
		if f.ID.Index < index {
			return -1
		}
		return 1
	})
	return i
}

// selectAttempt returns the output of the last attempt, or of the one before if previous is true, of attempts at the
// same task and index in ascending order. An attempt that is in both lists is read from the log. The error is a
// NotKeptError.
func selectAttempt(logs []*Log, finished []Finished, previous bool) (output, error) {
	number := int32(-1)
	if len(logs) > 0 {
		number = logs[len(logs)-1].id.Number
	}
	if len(finished) > 0 {
		number = max(number, finished[len(finished)-1].ID.Number)
	}
	if number < 0 {
		return nil, errNothingKept
	}
	if previous {
		if number <= 1 {
			return nil, &NotKeptError{fmt.Sprintf("there is no attempt before attempt %d", number)}
		}
		number--
	}
	for _, log := range logs {
		if log.id.Number == number {
			return log, nil
		}
	}
	for i := range finished {
		if finished[i].ID.Number == number {
			return &finished[i], nil
		}
	}
	return nil, &NotKeptError{fmt.Sprintf("the worker keeps no output of attempt %d: "+
		"another worker ran it, or what was kept had to make room or was kept for long enough", number)}
}
