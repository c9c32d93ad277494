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

// TestLogReader uses streams that return an error together with the last data, or after it. The reader must return the
// error alone, since upstream's WebSocket handler drops data that comes with an error.
func TestLogReader(t *testing.T) {
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
			log := &logReader{ReadCloser: io.NopCloser(test.stream), ctx: context.WithValue(t.Context(), truncatedKey{}, broken)}
			var got strings.Builder
			buffer := make([]byte, 3)
			for {
				n, err := log.Read(buffer)
				if err == nil {
					got.Write(buffer[:n])
					continue
				}
				if n > 0 || !errors.Is(err, test.want) {
					t.Errorf("got %d bytes with %v, want none with %v", n, err, test.want)
				}
				break
			}
			if got.String() != "a log" {
				t.Errorf("got %q", got.String())
			}
			if broken.Load() != test.broken {
				t.Errorf("truncated: %t, want %t", broken.Load(), test.broken)
			}
			if _, err := log.Read(buffer); !errors.Is(err, test.want) {
				t.Errorf("a read after the end returned %v", err)
			}
		})
	}
}
