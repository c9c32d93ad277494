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
	"errors"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// TestMessagesHaveNoControlCharacters checks texts that commands and workers choose, outside of output.
func TestMessagesHaveNoControlCharacters(t *testing.T) {
	const hostile = "\x1b]0;title\x07one\u202etwo\u009b2J\nthree"
	f := &factory{program: "leat"}
	waiting := batch.NewTask(chunkedSet(), 0, 0)
	waiting.Spec.WorkerName, waiting.Status.State.Waiting = "w", &batch.TaskStateWaiting{Reason: "Starting", Message: hostile}
	for name, test := range map[string]struct{ got, want string }{
		"an error of the server":       {f.describe(apierrors.NewGone(hostile)), "Error from server (Gone): onetwo\nthree"},
		"another error":                {f.describe(errors.New(hostile)), "error: onetwo\nthree"},
		"explain: why the task waits:": {explained(t, chunkedSet(), -1, waiting), "waits on its worker: Starting: onetwo three"},
	} {
		if !strings.Contains(test.got, test.want) || strings.ContainsAny(test.got, "\x1b\x07\u202e\u009b") {
			t.Errorf("%s: got %q, want %q", name, test.got, test.want)
		}
	}
}
