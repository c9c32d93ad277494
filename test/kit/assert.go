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

package kit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/test/kit/await"
)

// Patience is how long Eventually waits. It is far longer than anything takes on an idle machine, so a test fails because
// something does not happen, not because a machine is slow.
const Patience = 3 * time.Minute

// Check fails the test at once if err is not nil.
func Check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Must returns a function that returns value, and that fails the test at once if err is not nil. Use it as
// Must(client.Get(…))(t).
func Must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		Check(t, err)
		return value
	}
}

// Eventually calls condition until it returns nil. It fails the test with the last error of condition after Patience.
func Eventually(t testing.TB, what string, condition func(context.Context) error) {
	t.Helper()
	start := time.Now()
	if err := await.Until(t.Context(), Patience, condition); err != nil {
		t.Fatalf("waited %s until %s: %v", time.Since(start).Round(time.Second), what, err)
	}
}

// Gone returns nil if err is a NotFound error. It returns an error if err is nil, since then the object still exists.
func Gone(err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err == nil:
		return errors.New("the object still exists")
	}
	return err
}

// Refused returns nil if err is an API error with that reason whose message contains all the texts.
func Refused(err error, reason metav1.StatusReason, texts ...string) error {
	if got := apierrors.ReasonForError(err); got != reason {
		return fmt.Errorf("got error %v (reason %q), want reason %s", err, got, reason)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			return fmt.Errorf("got error %q, want one that contains %q", err, text)
		}
	}
	return nil
}
