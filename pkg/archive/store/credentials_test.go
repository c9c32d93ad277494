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

package store

import (
	"strings"
	"testing"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

func TestCredentialsFileIsThatOfAWS(t *testing.T) {
	for _, c := range []struct {
		name, content string
		key, secret   string
		token         string
	}{
		{name: "profile default", key: "K", secret: "S", content: "[default]\naws_access_key_id = K\naws_secret_access_key = S\n"},
		{name: "without spaces, with carriage returns", key: "K", secret: "S=", content: "[default]\r\naws_access_key_id=K\r\naws_secret_access_key=S=\r\n"},
		{name: "no profile", key: "K", secret: "S", content: "access_key_id=K\nsecret_access_key=S"},
		{name: "token", key: "K", secret: "S", token: "T", content: "aws_session_token=T\naws_access_key_id=K\naws_secret_access_key=S"},
		{name: "other profiles and comments", key: "K", secret: "S", content: "# keys\n[other]\naws_access_key_id=O\naws_secret_access_key=O\n\n" +
			"[default]\nregion=x\naws_access_key_id=K\n# a comment\naws_secret_access_key=S\n[last]\naws_access_key_id=L\naws_secret_access_key=L\n"},
		{name: "empty"},
		{name: "no secret", content: "[default]\naws_access_key_id=SENSITIVE\n"},
		{name: "another profile", content: "[other]\naws_access_key_id=SENSITIVE\naws_secret_access_key=SENSITIVE\n"},
		{name: "a bare secret", content: "SENSITIVE\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := credentials.Value{AccessKeyID: c.key, SecretAccessKey: c.secret, SessionToken: c.token}
			got, err := parseCredentials(c.content)
			got.SignerType = want.SignerType
			if got != want || (err == nil) != (c.key != "") {
				t.Errorf("got %v, %v, want %v", got, err, want)
			}
			if err != nil && (strings.Contains(err.Error(), "SENSITIVE") || !strings.Contains(err.Error(), "aws_access_key_id")) {
				t.Errorf("the error is %q, want the accepted keys and no content", err)
			}
		})
	}
}
