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

package host

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/leat-dev/leat/pkg/standalone/pki"
)

// S3Options configure an S3 server.
type S3Options struct {
	// BinDir holds the program; bin/host of the repository if empty.
	BinDir string
	// Dir is the directory for objects, certificates, credentials and the log. It is required, and created if it does not
	// exist. Objects in it are kept; port and credentials are new at every start.
	Dir string
}

// S3 is a running S3 server with one bucket, which keeps objects as files.
type S3 struct {
	// Process is the server. It keeps its objects and its address over Restart.
	*Process
	// Endpoint is its address, https://127.0.0.1:<port>.
	Endpoint string
	// CAFile is the authority of its certificate.
	CAFile string
	// Bucket exists, and BucketDir has its objects as files, each at the path of its key.
	Bucket, BucketDir string
	// AccessKeyID and SecretAccessKey have all rights. CredentialsFile is an AWS credentials file with them.
	AccessKeyID, SecretAccessKey, CredentialsFile string
}

// StartS3 starts an S3 server and waits until it serves, as StartProcess does.
func StartS3(ctx context.Context, options S3Options) (*S3, error) {
	program, err := binary(options.BinDir, "versitygw")
	if err != nil {
		return nil, err
	}
	certificates, err := newAuthority(filepath.Join(options.Dir, "s3-pki"), "s3-ca")
	if err != nil {
		return nil, err
	}
	cert, key, err := certificates.server("server")
	if err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	data, sidecar := filepath.Join(options.Dir, "s3-data"), filepath.Join(options.Dir, "s3-metadata")
	s := &S3{
		Endpoint: "https://" + address(port), CAFile: certificates.caFile,
		Bucket: "leat", BucketDir: filepath.Join(data, "leat"),
		AccessKeyID: rand.Text(), SecretAccessKey: rand.Text(), CredentialsFile: filepath.Join(options.Dir, "s3-credentials"),
	}
	for _, dir := range []string{s.BucketDir, sidecar} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	err = pki.WriteFile(s.CredentialsFile, fmt.Appendf(nil, "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n",
		s.AccessKeyID, s.SecretAccessKey))
	if err != nil {
		return nil, err
	}
	config, err := trusting(certificates.CA)
	if err != nil {
		return nil, err
	}
	s.Process, err = StartProcess(ctx, Command{
		Name: "s3",
		Path: program,
		Dir:  options.Dir,
		Env:  []string{"ROOT_ACCESS_KEY_ID=" + s.AccessKeyID, "ROOT_SECRET_ACCESS_KEY=" + s.SecretAccessKey},
		Args: []string{
			"--port=" + address(port),
			"--cert=" + cert,
			"--key=" + key,
			"--health=/health",
			"--keep-alive",
			"posix",
			"--sidecar=" + sidecar, // not all file systems have extended attributes
			data,
		},
		Ready: answersOK(s.Endpoint+"/health", config),
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// S3ForTest starts an S3 server until the test ends, like ForTest.
func S3ForTest(t testing.TB) *S3 {
	t.Helper()
	s, err := StartS3(t.Context(), S3Options{Dir: t.ArtifactDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Err(), s.Kill()); err != nil {
			t.Error(err)
		}
	})
	return s
}
