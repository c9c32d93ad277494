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

package localserver

import (
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func TestIsLocal(t *testing.T) {
	dir := t.TempDir()
	config := clientcmdapi.NewConfig()
	config.Clusters["leat"] = &clientcmdapi.Cluster{Server: "https://127.0.0.1:7443"}
	config.Clusters["other"] = &clientcmdapi.Cluster{Server: "https://other.example"}
	if err := Mark(config.Clusters["leat"], dir, "abcde"); err != nil {
		t.Fatal(err)
	}
	// The mark must survive the kubeconfig file.
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.LoadFromFile(file)
	if err != nil {
		t.Fatal(err)
	}
	check := func(name, cluster string, want bool) {
		t.Helper()
		if got := IsLocal(config.Clusters[cluster]); got != want {
			t.Errorf("%s: IsLocal is %t", name, got)
		}
	}
	check("no data directory", "leat", false)
	if err := os.WriteFile(InstanceFile(dir), []byte("fghij"), 0o600); err != nil {
		t.Fatal(err)
	}
	check("another data directory", "leat", false)
	if err := os.WriteFile(InstanceFile(dir), []byte("abcde"), 0o600); err != nil {
		t.Fatal(err)
	}
	check("the data directory", "leat", true)
	check("a cluster", "other", false)
}
