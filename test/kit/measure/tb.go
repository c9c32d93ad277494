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

// Package measure is for programs that measure Leat: a testing.TB outside of "go test", the CPU and memory of processes,
// metrics, profiles, and workers that run nothing.
package measure

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
)

// TB is a testing.TB for programs, so that they can use test/kit. It implements only the methods that the kit calls. It is
// not safe for concurrent use.
type TB struct {
	testing.TB // nil, so other methods panic
	name       string
	ctx        context.Context
	dir        string
	cleanups   []func()
	err        error
}

// NewTB returns a TB of the program name. Environments of the kit end with ctx or with End. Their data and logs are in dir,
// an absolute path.
func NewTB(ctx context.Context, name, dir string) *TB {
	return &TB{name: name, ctx: ctx, dir: dir}
}

// Err returns all errors, joined.
func (s *TB) Err() error { return s.err }

// failure is the panic of Fatal. End recovers it.
type failure struct{}

// Helper implements testing.TB. It does nothing.
func (s *TB) Helper() {}

// Name returns the name of the program.
func (s *TB) Name() string { return s.name }

// Context returns the context of NewTB.
func (s *TB) Context() context.Context { return s.ctx }

// ArtifactDir returns the directory for data and logs.
func (s *TB) ArtifactDir() string { return s.dir }

// Cleanup registers f. End calls it.
func (s *TB) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// Error records an error.
func (s *TB) Error(args ...any) { s.err = errors.Join(s.err, errors.New(fmt.Sprint(args...))) }

// Errorf records an error.
func (s *TB) Errorf(format string, args ...any) {
	s.err = errors.Join(s.err, fmt.Errorf(format, args...))
}

// TempDir creates a directory.
func (s *TB) TempDir() string {
	dir, err := os.MkdirTemp(s.dir, "tmp-")
	if err != nil {
		s.Fatal(err)
	}
	return dir
}

// Fatal records an error and panics. End recovers the panic.
func (s *TB) Fatal(args ...any) {
	s.Error(args...)
	panic(failure{})
}

// Fatalf records an error and panics. End recovers the panic.
func (s *TB) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	panic(failure{})
}

// End recovers the panic of Fatal and calls the functions of Cleanup, the last first. Defer it.
func (s *TB) End() {
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

// Check calls Fatal if err is not nil.
func (s *TB) Check(err error) {
	if err != nil {
		s.Fatal(err)
	}
}
