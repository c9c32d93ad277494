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

package task

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
)

// A stream may tell of its end together with its last part, or after it: who drops what comes with an end, as a websocket does, has all of
// it either way.
func TestALogEndsAfterItsLastPart(t *testing.T) {
	cut := errors.New("cut")
	for name, test := range map[string]struct {
		stream io.Reader
		want   error
		broken bool
	}{
		"the end with the last part":  {iotest.DataErrReader(strings.NewReader("a log")), io.EOF, false},
		"the end after the last part": {strings.NewReader("a log"), io.EOF, false},
		"cut with the last part":      {iotest.DataErrReader(io.MultiReader(strings.NewReader("a log"), iotest.ErrReader(cut))), cut, true},
		"cut after the last part":     {io.MultiReader(strings.NewReader("a log"), iotest.ErrReader(cut)), cut, true},
	} {
		t.Run(name, func(t *testing.T) {
			broken := &atomic.Bool{}
			log := &watched{ReadCloser: io.NopCloser(test.stream), ctx: context.WithValue(t.Context(), brokenKey{}, broken)}
			var got strings.Builder
			buffer := make([]byte, 3)
			for {
				n, err := log.Read(buffer)
				if err == nil {
					got.Write(buffer[:n])
					continue
				}
				if n > 0 || !errors.Is(err, test.want) {
					t.Errorf("It ends with %d bytes and %v, want none and %v.", n, err, test.want)
				}
				break
			}
			if got.String() != "a log" {
				t.Errorf("It is read as %q.", got.String())
			}
			if broken.Load() != test.broken {
				t.Errorf("That it broke off is noted: %t, want %t.", broken.Load(), test.broken)
			}
			if _, err := log.Read(buffer); !errors.Is(err, test.want) {
				t.Errorf("After its end it says %v.", err)
			}
		})
	}
}
