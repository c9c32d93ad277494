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

// Package measure is what programs that measure Leat share: environments of tests outside of tests, what processes need, metrics, and
// workers that run nothing.
package measure

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
)

// Stage is a test without a testing.T: it starts the environments of tests. It is for one goroutine.
type Stage struct {
	testing.TB // nil: what is not below is not called
	name       string
	ctx        context.Context
	dir        string
	cleanups   []func()
	err        error
}

// NewStage gives one whose environments last as long as ctx, and until End, with their data and logs in dir, an absolute path.
func NewStage(ctx context.Context, name, dir string) *Stage {
	return &Stage{name: name, ctx: ctx, dir: dir}
}

// Err tells all that went wrong.
func (s *Stage) Err() error { return s.err }

// failure is what Fatal panics with and End recovers from.
type failure struct{}

// Helper does nothing.
func (s *Stage) Helper() {}

// Name is that of the program.
func (s *Stage) Name() string { return s.name }

// Context ends when the program is interrupted.
func (s *Stage) Context() context.Context { return s.ctx }

// ArtifactDir is where data and logs go.
func (s *Stage) ArtifactDir() string { return s.dir }

// Cleanup has f called by End.
func (s *Stage) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// Error notes that something went wrong.
func (s *Stage) Error(args ...any) { s.err = errors.Join(s.err, errors.New(fmt.Sprint(args...))) }

// Errorf notes that something went wrong.
func (s *Stage) Errorf(format string, args ...any) {
	s.err = errors.Join(s.err, fmt.Errorf(format, args...))
}

// TempDir makes a directory.
func (s *Stage) TempDir() string {
	dir, err := os.MkdirTemp(s.dir, "tmp-")
	if err != nil {
		s.Fatal(err)
	}
	return dir
}

// Fatal notes that something went wrong, and leaves for End.
func (s *Stage) Fatal(args ...any) {
	s.Error(args...)
	panic(failure{})
}

// Fatalf notes that something went wrong, and leaves for End.
func (s *Stage) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	panic(failure{})
}

// End recovers from a failure and undoes what was done, last things first.
func (s *Stage) End() {
	if r := recover(); r != nil && r != (failure{}) {
		panic(r)
	}
	for len(s.cleanups) > 0 {
		last := s.cleanups[len(s.cleanups)-1]
		s.cleanups = s.cleanups[:len(s.cleanups)-1]
		func() {
			defer func() {
				if r := recover(); r != nil && r != (failure{}) {
					panic(r)
				}
			}()
			last()
		}()
	}
}

// Check fails unless err is nil.
func (s *Stage) Check(err error) {
	if err != nil {
		s.Fatal(err)
	}
}
