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

// Package redact keeps secrets out of logs, whatever is logged.
package redact

import (
	"bytes"
	"io"
	"os"
	"regexp"

	logsapi "k8s.io/component-base/logs/api/v1"
)

// From -v=8 on client-go logs the bodies of requests and answers: a token is in each TokenReview, and the object in what webhooks are
// asked. A body of one line is quoted in the log.
var (
	token       = regexp.MustCompile(`("token"\s*:\s*")(?:[^"\\]|\\.)*"`)
	quotedToken = regexp.MustCompile(`(\\"token\\"\s*:\s*\\").*`)
	asked       = regexp.MustCompile(`(?s)\{.*"kind\\?"\s*:\s*\\?"AdmissionReview.*\}`)
)

// Streams has a program log to where it would by default, through Writer.
func Streams() *logsapi.LoggingOptions {
	return &logsapi.LoggingOptions{ErrorStream: Writer(os.Stderr), InfoStream: Writer(os.Stdout)}
}

// Writer returns a writer of logs to w without tokens of TokenReviews and bodies of AdmissionReviews. Each write must be of whole
// entries, as those of klog are. It is as safe for concurrent use as w.
func Writer(w io.Writer) io.Writer { return writer{w} }

type writer struct{ w io.Writer }

func (r writer) Write(entry []byte) (int, error) {
	redacted := entry
	// Cheaper than expressions, which nearly no entry is for.
	if bytes.Contains(entry, []byte("token")) || bytes.Contains(entry, []byte("AdmissionReview")) {
		redacted = token.ReplaceAll(redacted, []byte(`${1}…"`))
		redacted = quotedToken.ReplaceAll(redacted, []byte(`${1}…`))
		redacted = asked.ReplaceAll(redacted, []byte(`{"kind":"AdmissionReview",…}`))
	}
	if _, err := r.w.Write(redacted); err != nil {
		return 0, err
	}
	return len(entry), nil
}
