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

package etcd

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/klog/v2/ktesting"
)

func TestLogLevels(t *testing.T) {
	const (
		chatter = `chatter member="a"`
		slow    = `slow member="a" took=3 level="warning"`
		broken  = `etcd failed err="broken" member="a" error="cause"`
	)
	for _, test := range []struct {
		level     zapcore.Level
		verbosity int
		want      []string
	}{
		{level: zap.WarnLevel, want: []string{slow, broken}},
		{level: zap.ErrorLevel, want: []string{broken}},
		{level: zap.FatalLevel},
		{level: zap.ErrorLevel, verbosity: quietVerbosity, want: []string{chatter, slow, broken}},
	} {
		buffer := &ktesting.BufferTL{}
		logger := zap.New(logCore{
			level:  test.level,
			logger: ktesting.NewLogger(buffer, ktesting.NewConfig(ktesting.Verbosity(test.verbosity))),
		}).With(zap.String("member", "a"))
		logger.Info("chatter")
		logger.Warn("slow", zap.Int("took", 3))
		logger.Error("broken", zap.Error(errors.New("cause")))

		var got []string
		for line := range strings.Lines(buffer.String()) {
			_, message, _ := strings.Cut(strings.TrimSpace(line), "] ")
			got = append(got, message)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("from %v on, at verbosity %d, it logs %q, want %q", test.level, test.verbosity, got, test.want)
		}
	}
}
