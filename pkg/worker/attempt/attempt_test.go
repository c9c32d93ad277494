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

package attempt

import "testing"

func TestAnIDIsReadBackFromItsText(t *testing.T) {
	for _, tc := range []struct {
		id   ID
		text string
	}{
		{ID{"8a6e0804-2bd0-4672-b79d-d97027f9071a", NoIndex, 1}, "8a6e0804-2bd0-4672-b79d-d97027f9071a-1"},
		{ID{"8a6e0804-2bd0-4672-b79d-000000000012", NoIndex, 3}, "8a6e0804-2bd0-4672-b79d-000000000012-3"},
		{ID{"8a6e0804-2bd0-4672-b79d-000000000012", 0, 1}, "8a6e0804-2bd0-4672-b79d-000000000012_0-1"},
		{ID{"u-1", 999_999, 12}, "u-1_999999-12"},
	} {
		if got := tc.id.String(); got != tc.text {
			t.Errorf("%+v is %q, want %q", tc.id, got, tc.text)
		}
		if got, ok := Parse(tc.text); !ok || got != tc.id {
			t.Errorf("%q is parsed as %+v, %t", tc.text, got, ok)
		}
	}
}

func TestOtherTextIsNoID(t *testing.T) {
	for _, text := range []string{"", "-", "-1", "uid", "uid-", "uid-x", "uid_-1", "uid_x-1", "uid_01-1", "uid_-1-1", "_1-1", "uid_1"} {
		if id, ok := Parse(text); ok {
			t.Errorf("%q is parsed as %+v", text, id)
		}
	}
}
