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
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
)

func TestDirectKubeconfig(t *testing.T) {
	bundle := base64.StdEncoding.EncodeToString([]byte("the authority"))
	for name, test := range map[string]struct {
		apiService string // empty: there is none
		args       []string
		want       map[string]string // of the kubeconfig
		wantErr    string
	}{
		"the Service": {
			apiService: `{"spec":{"service":{"namespace":"leat-system","name":"leat-apiserver","port":443},"caBundle":"` + bundle + `"}}`,
			want:       map[string]string{"server": "https://leat-apiserver.leat-system.svc", "name": "", "token": "secret", "namespace": "render"},
		},
		"another port, and a token to come": {
			apiService: `{"spec":{"service":{"namespace":"a","name":"b","port":8443},"caBundle":"` + bundle + `"}}`,
			args:       []string{"--token-file=/etc/leat/token", "-n", "other"},
			want:       map[string]string{"server": "https://b.a.svc:8443", "tokenFile": "/etc/leat/token", "namespace": "other"},
		},
		"another way": {
			apiService: `{"spec":{"service":{"namespace":"a","name":"b"},"caBundle":"` + bundle + `"}}`,
			args:       []string{"--address=https://leat.example.com:1"},
			want:       map[string]string{"server": "https://leat.example.com:1", "name": "b.a.svc", "token": "secret", "namespace": "render"},
		},
		"a certificate to come": {
			apiService: `{"spec":{"service":{"namespace":"a","name":"b"},"caBundle":"` + bundle + `"}}`,
			args:       []string{"--certificate-file=worker.crt", "--key-file=worker.key"},
			want:       map[string]string{"server": "https://b.a.svc", "certificate": "worker.crt", "key": "worker.key", "namespace": "render"},
		},
		"a certificate without key": {args: []string{"--certificate-file=worker.crt"}, wantErr: "write both"},
		"a certificate and a token": {args: []string{"--certificate-file=c", "--key-file=k", "--token-file=t"}, wantErr: "write one of them"},
		"nothing installed":         {wantErr: "Leat is not installed there"},
		"nobody to trust yet":       {apiService: `{"spec":{"service":{"namespace":"a","name":"b"}}}`, wantErr: "wait until it is available"},
		"an address without https":  {args: []string{"--address=leat.example.com"}, wantErr: "write one like https://"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if test.apiService == "" || r.URL.Path != "/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.batch.leat.dev" {
					http.NotFound(w, r)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, test.apiService)
			}))
			defer server.Close()
			path := filepath.Join(t.TempDir(), "kubeconfig")
			content := `{"clusters":[{"name":"c","cluster":{"server":"` + server.URL + `"}}],"users":[{"name":"u","user":{"token":"secret"}}],` +
				`"contexts":[{"name":"x","context":{"cluster":"c","user":"u","namespace":"render"}}],"current-context":"x"}`
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			var out, errOut bytes.Buffer
			code := Main("leat", append([]string{"kubeconfig", "--kubeconfig=" + path}, test.args...),
				genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &errOut})
			if test.wantErr != "" {
				if code == 0 || !strings.Contains(errOut.String(), test.wantErr) {
					t.Fatalf("exit code %d, %s; want an error with %q", code, errOut.String(), test.wantErr)
				}
				return
			}
			config, err := clientcmd.Load(out.Bytes())
			if code != 0 || err != nil {
				t.Fatalf("exit code %d, %v: %s", code, err, errOut.String())
			}
			current := config.Contexts[config.CurrentContext]
			cluster, user := config.Clusters[current.Cluster], config.AuthInfos[current.AuthInfo]
			for what, got := range map[string]string{
				"server": cluster.Server, "name": cluster.TLSServerName, "token": user.Token, "tokenFile": user.TokenFile, "namespace": current.Namespace,
				"certificate": user.ClientCertificate, "key": user.ClientKey,
			} {
				if got != test.want[what] {
					t.Errorf("%s is %q, want %q", what, got, test.want[what])
				}
			}
			if string(cluster.CertificateAuthorityData) != "the authority" {
				t.Errorf("it trusts %q", cluster.CertificateAuthorityData)
			}
		})
	}
}

func TestKubeconfigWithCredentialsIsPrivate(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"spec":{"service":{"namespace":"a","name":"b"},"caBundle":"YQ=="}}`)
	}))
	defer server.Close()
	access := filepath.Join(t.TempDir(), "kubeconfig")
	content := `{"clusters":[{"name":"c","cluster":{"server":"` + server.URL + `"}}],"users":[{"name":"u","user":{"token":"secret"}}],` +
		`"contexts":[{"name":"x","context":{"cluster":"c","user":"u"}}],"current-context":"x"}`
	if err := os.WriteFile(access, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args       []string
		mode, want os.FileMode
	}{
		"with a token":                 {mode: 0o644, want: 0o600},
		"with a token, in a secret":    {mode: 0o400, want: 0o400},
		"with the name of a file only": {args: []string{"--token-file=/etc/leat/token"}, mode: 0o644, want: 0o644},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "printed")
			out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			if err := out.Chmod(test.mode); err != nil {
				t.Fatal(err)
			}
			var errOut bytes.Buffer
			code := Main("leat", append([]string{"kubeconfig", "--kubeconfig=" + access}, test.args...), genericiooptions.IOStreams{In: strings.NewReader(""), Out: out, ErrOut: &errOut})
			info, err := out.Stat()
			if code != 0 || err != nil {
				t.Fatalf("exit code %d, %v: %s", code, err, errOut.String())
			}
			if info.Mode().Perm() != test.want || info.Size() == 0 {
				t.Errorf("the mode is %s, want %s, of %d bytes", info.Mode().Perm(), test.want, info.Size())
			}
		})
	}
}
