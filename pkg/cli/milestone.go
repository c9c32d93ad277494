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
	"fmt"
	"strconv"
	"strings"

	"github.com/leat-dev/leat/pkg/cli/progress"
)

// milestone is what "leat wait --for" waits for, besides the end. The zero value waits for the end.
type milestone struct {
	kind milestoneKind
	// percent is the share of the tasks that have ended, for atShare.
	percent int
}

type milestoneKind int

const (
	atEnd milestoneKind = iota
	atStart
	atFailure
	atShare
)

// String implements pflag.Value.
func (m *milestone) String() string {
	switch m.kind {
	case atStart:
		return "start"
	case atFailure:
		return "failure"
	case atShare:
		return strconv.Itoa(m.percent) + "%"
	}
	return "end"
}

// Set implements pflag.Value.
func (m *milestone) Set(text string) error {
	switch text {
	case "end":
		*m = milestone{}
		return nil
	case "start":
		*m = milestone{kind: atStart}
		return nil
	case "failure":
		*m = milestone{kind: atFailure}
		return nil
	}
	number, isShare := strings.CutSuffix(text, "%")
	percent, err := strconv.Atoi(number)
	if !isShare || err != nil || percent < 1 || percent > 100 {
		return errors.New("write end, start, failure, or a share like 50%")
	}
	*m = milestone{kind: atShare, percent: percent}
	return nil
}

// Type implements pflag.Value.
func (m *milestone) Type() string { return "string" }

// reached reports whether work with this progress has reached the milestone. The end is left to those who follow the
// work: it is more than its progress.
func (m *milestone) reached(s progress.Snapshot) bool {
	switch m.kind {
	case atStart:
		return s.Running+s.Done+s.Failed > 0
	case atFailure:
		return s.Failed > 0
	case atShare:
		return s.Total > 0 && (s.Done+s.Failed)*100 >= m.percent*s.Total
	}
	return false
}

// atMilestone reports whether the member has reached the milestone.
func (m *member) atMilestone() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.until.reached(m.snapshot)
}

// concludeMilestone ends a member that goes on, and prints that the milestone is reached. It returns an error with the
// exit code if that is a failure.
func (m *member) concludeMilestone() error {
	m.end()
	m.mu.Lock()
	s := m.snapshot
	m.mu.Unlock()
	switch m.until.kind {
	case atStart:
		fmt.Fprintf(m.renderer, "%s has started\n", m.ref)
	case atFailure:
		fmt.Fprintf(m.renderer, "%s goes on: %d of its tasks failed. Why: %s explain %s\n", m.ref, s.Failed, m.program, m.ref)
		return &exitError{code: exitFailed}
	default:
		fmt.Fprintf(m.renderer, "%s goes on: %d of %d have ended, %d failed\n", m.ref, s.Done+s.Failed, s.Total, s.Failed)
	}
	return nil
}
