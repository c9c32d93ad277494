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

package standalone

import (
	"context"
	"errors"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"
)

// If a component cannot be started, those that were started end before their resources are released and Run returns.
func TestNothingRunsOnWhenAPartCannotBeStarted(t *testing.T) {
	failed := errors.New("no room for logs")
	var order []string
	err := runGroup(t.Context(), func(ctx context.Context, parts *errgroup.Group) ([]func(), error) {
		parts.Go(func() error {
			<-ctx.Done()
			order = append(order, "ended")
			return nil
		})
		return []func(){func() { order = append(order, "released first") }, func() { order = append(order, "released last") }}, failed
	})
	if !errors.Is(err, failed) || !slices.Equal(order, []string{"ended", "released last", "released first"}) {
		t.Errorf("%v, in the order %q", err, order)
	}
}

func TestPartsEndTogether(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	lost := errors.New("lost")
	for name, test := range map[string]struct {
		fail func() error
		want error
	}{
		"one fails":        {func() error { return lost }, lost},
		"the context ends": {func() error { stop(); return nil }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			ended := false
			err := runGroup(ctx, func(ctx context.Context, parts *errgroup.Group) ([]func(), error) {
				parts.Go(test.fail)
				parts.Go(func() error {
					<-ctx.Done()
					ended = true
					return nil
				})
				return nil, nil
			})
			if !errors.Is(err, test.want) || !ended {
				t.Errorf("%v, ended %t", err, ended)
			}
		})
	}
}
