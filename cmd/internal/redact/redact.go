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

// Package redact removes secrets from log output.
package redact

import (
	"bytes"
	"io"
	"os"
	"regexp"

	logsapi "k8s.io/component-base/logs/api/v1"
)

// With -v=8 client-go logs the bodies of requests and responses. Each TokenReview has a token, and an AdmissionReview
// for a webhook has the object. klog quotes a body of one line.
var (
	token       = regexp.MustCompile(`("token"\s*:\s*")(?:[^"\\]|\\.)*"`)
	quotedToken = regexp.MustCompile(`(\\"token\\"\s*:\s*\\").*`)
	asked       = regexp.MustCompile(`(?s)\{.*"kind\\?"\s*:\s*\\?"AdmissionReview.*\}`)
)

// Streams directs the log of klog to standard error, as by default, but through Writer.
func Streams() *logsapi.LoggingOptions {
	return &logsapi.LoggingOptions{ErrorStream: Writer(os.Stderr), InfoStream: Writer(os.Stdout)}
}

// Writer returns a writer that removes tokens of TokenReviews and bodies of AdmissionReviews. Each write must consist
// of whole entries, as those of klog do. It is safe for concurrent use if w is.
func Writer(w io.Writer) io.Writer { return writer{w} }

type writer struct{ w io.Writer }

func (r writer) Write(entry []byte) (int, error) {
	redacted := entry
	// Check for the kinds first, which is cheaper than the expressions: nearly no entry has them.
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
