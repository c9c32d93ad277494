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
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// credentialsError is an error of the credentials, which no request has been sent with.
type credentialsError struct{ error }

// credentialsFile reads credentials from a file for each request, so that new ones are used at once. Its values have no
// place in errors.
type credentialsFile struct {
	path string
}

// RetrieveWithCredContext implements credentials.Provider.
func (f credentialsFile) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	return f.Retrieve()
}

// Retrieve implements credentials.Provider.
func (f credentialsFile) Retrieve() (credentials.Value, error) {
	content, err := os.ReadFile(f.path)
	if err != nil {
		return credentials.Value{}, credentialsError{err}
	}
	value, err := parseCredentials(string(content))
	if err != nil {
		return credentials.Value{}, credentialsError{fmt.Errorf("the credentials file %s: %w", f.path, err)}
	}
	return value, nil
}

// IsExpired implements credentials.Provider.
func (f credentialsFile) IsExpired() bool { return true }

// parseCredentials returns the credentials of the profile "default" of an AWS credentials file. Lines before the first
// profile count too, and the keys may lack their prefix "aws_".
func parseCredentials(content string) (credentials.Value, error) {
	value := credentials.Value{SignerType: credentials.SignatureV4}
	profile := "default"
	for line := range strings.Lines(content) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			profile = strings.TrimSpace(strings.Trim(line, "[]"))
			continue
		}
		key, text, found := strings.Cut(line, "=")
		if profile != "default" || !found {
			continue
		}
		text = strings.TrimSpace(text)
		switch strings.TrimPrefix(strings.TrimSpace(key), "aws_") {
		case "access_key_id":
			value.AccessKeyID = text
		case "secret_access_key":
			value.SecretAccessKey = text
		case "session_token":
			value.SessionToken = text
		}
	}
	if value.AccessKeyID == "" || value.SecretAccessKey == "" {
		return credentials.Value{}, errors.New("the profile default must have aws_access_key_id and aws_secret_access_key")
	}
	return value, nil
}

// environmentCredentials returns those of the environment, or none: then requests are not signed.
func environmentCredentials() *credentials.Credentials {
	return credentials.NewStaticV4(
		os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), os.Getenv("AWS_SESSION_TOKEN"))
}
