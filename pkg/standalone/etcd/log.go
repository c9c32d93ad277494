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

	"go.uber.org/zap/zapcore"
	"k8s.io/klog/v2"
)

// quietVerbosity is the klog verbosity at which all entries of etcd are logged.
const quietVerbosity = 4

// logCore is a zapcore.Core that writes etcd's entries to klog: those from level on, or all at quietVerbosity.
type logCore struct {
	level  zapcore.LevelEnabler
	logger klog.Logger
	fields []zapcore.Field
}

// Enabled implements zapcore.LevelEnabler.
func (c logCore) Enabled(level zapcore.Level) bool {
	return c.level.Enabled(level) || c.logger.V(quietVerbosity).Enabled()
}

// With implements zapcore.Core.
func (c logCore) With(fields []zapcore.Field) zapcore.Core {
	c.fields = append(c.fields[:len(c.fields):len(c.fields)], fields...)
	return c
}

// Check implements zapcore.Core.
func (c logCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

// Write implements zapcore.Core.
func (c logCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	values := zapcore.NewMapObjectEncoder()
	var keysAndValues []any
	for _, field := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		field.AddTo(values)
		if value, ok := values.Fields[field.Key]; ok {
			keysAndValues = append(keysAndValues, field.Key, value)
		}
	}
	switch {
	case entry.Level >= zapcore.ErrorLevel:
		c.logger.Error(errors.New(entry.Message), "etcd failed", keysAndValues...)
	case entry.Level == zapcore.WarnLevel:
		c.logger.Info(entry.Message, append(keysAndValues, "level", "warning")...)
	default:
		c.logger.V(quietVerbosity).Info(entry.Message, keysAndValues...)
	}
	if entry.Level > zapcore.ErrorLevel {
		klog.Flush() // etcd ends the process right after this
	}
	return nil
}

// Sync implements zapcore.Core.
func (logCore) Sync() error {
	klog.Flush()
	return nil
}
