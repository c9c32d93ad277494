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

package redact

import (
	"bytes"
	"errors"
	"testing"
)

func TestSecretsAreCutOut(t *testing.T) {
	for _, test := range []struct{ name, entry, want string }{
		{"no token", "I1 \"Request Body\" body=<\n\t{\"kind\":\"Task\"}\n >\n", "I1 \"Request Body\" body=<\n\t{\"kind\":\"Task\"}\n >\n"},
		{"a review", `{"kind":"TokenReview","spec":{"token":"a.b.c","audiences":["x"]}}`, `{"kind":"TokenReview","spec":{"token":"…","audiences":["x"]}}`},
		{"a token with what ends a text in it", `{"token":"a\"b\\","status":{}}`, `{"token":"…","status":{}}`},
		{"spaces", `{"token" : "secret"}`, `{"token" : "…"}`},
		{"two", `{"token":"one"} {"token":"two"}`, `{"token":"…"} {"token":"…"}`},
		{"a quoted review", `I1 "Response Body" body="{\"kind\":\"TokenReview\",\"spec\":{\"token\":\"a.b.c\"}}"`, `I1 "Response Body" body="{\"kind\":\"TokenReview\",\"spec\":{\"token\":\"…`},
		{"what a webhook is asked", "I1 \"Request Body\" body=<\n\t{\"kind\":\"AdmissionReview\",\"request\":{\"object\":{\"env\":[\n1]}}}\n >\n", "I1 \"Request Body\" body=<\n\t{\"kind\":\"AdmissionReview\",…}\n >\n"},
		{"what it answers", `I1 "Response Body" body="{\"response\":{\"patch\":\"c2VjcmV0\"},\"kind\": \"AdmissionReview\"}"`, `I1 "Response Body" body="{"kind":"AdmissionReview",…}"`},
		{"words alone", "a token for an AdmissionReview\n", "a token for an AdmissionReview\n"},
		{"no text", `{"token":5}`, `{"token":5}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log bytes.Buffer
			n, err := Writer(&log).Write([]byte(test.entry))
			if err != nil || n != len(test.entry) || log.String() != test.want {
				t.Errorf("logged %q, and wrote %d, %v; want %q", log.String(), n, err, test.want)
			}
		})
	}
}

type full struct{}

var errFull = errors.New("full")

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestErrorsAreTold(t *testing.T) {
	for _, entry := range []string{"a", `{"token":"a"}`} {
		if n, err := Writer(full{}).Write([]byte(entry)); n != 0 || !errors.Is(err, errFull) {
			t.Errorf("of %s %d bytes were written, and the error is %v", entry, n, err)
		}
	}
}
