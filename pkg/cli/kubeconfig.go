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
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	directclient "github.com/leat-dev/leat/pkg/client/direct"
)

const kubeconfigLong = `Print a kubeconfig that connects to leat-apiserver directly instead of through the cluster's API server.

Use it for workers and for programs with many watches: their requests then cost the cluster's API server nothing. Their permissions are
the same either way.

The server address is that of the Service that Leat is registered with. Pods can resolve it; for other clients set --address.

The user is your current user. The output contains its credentials, so if standard output is a file, only its owner can read it
afterwards. With --token-file, or with --certificate-file and --key-file, the kubeconfig names these files instead. They are read on
the machine where the kubeconfig is used, and read again when they change.`

func (f *factory) newKubeconfigCommand() *cobra.Command {
	var address string
	var user credentialFiles
	command := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print a kubeconfig that connects to leat-apiserver directly",
		Long:  kubeconfigLong,
		Example: `  leat kubeconfig > direct.kubeconfig
  leat kubeconfig -n render --token-file /etc/leat/token > worker.kubeconfig
  leat kubeconfig --address https://leat.example.com:8443 --certificate-file worker.crt --key-file worker.key > outside.kubeconfig`,
		Args: noArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if target, err := url.Parse(address); err != nil || address != "" && (target.Scheme != "https" || target.Host == "") {
				return usageErrorf("--address %q: write one like https://leat.example.com:8443", address)
			}
			if (user.certificate == "") != (user.key == "") {
				return usageErrorf("--certificate-file and --key-file belong together: write both")
			}
			if user.token != "" && user.certificate != "" {
				return usageErrorf("--token-file and --certificate-file: write one of them: a user has either a token or a certificate")
			}
			s, err := f.connect()
			if err != nil {
				return err
			}
			config, err := f.directConfig(command.Context(), s, address, user)
			if err != nil {
				return err
			}
			content, err := clientcmd.Write(*config)
			if err != nil {
				return err
			}
			if user == (credentialFiles{}) {
				if err := restrictToOwner(f.streams.Out); err != nil {
					return err
				}
			}
			_, err = f.streams.Out.Write(content)
			return err
		},
	}
	command.Flags().StringVar(&address, "address", "", "Address of leat-apiserver (default: that of its Service)")
	command.Flags().StringVar(&user.token, "token-file", "", "File that will hold the token, where the kubeconfig is used")
	command.Flags().StringVar(&user.certificate, "certificate-file", "", "File that will hold the client certificate, where the kubeconfig is used")
	command.Flags().StringVar(&user.key, "key-file", "", "File that will hold its key")
	return command
}

// restrictToOwner sets the mode of standard output to 0600 if it is a file, before credentials are written to it.
// Shells create files that others can read.
func restrictToOwner(out io.Writer) error {
	file, ok := out.(*os.File)
	if !ok {
		return nil
	}
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 == 0 {
		return err
	}
	if err := file.Chmod(0o600); err != nil {
		return fmt.Errorf("others may read the file that credentials would be written to: %w: write to one of your own", err)
	}
	return nil
}

// credentialFiles are paths on the machine where the kubeconfig will be used. The zero value stands for the current
// user.
type credentialFiles struct{ token, certificate, key string }

// directConfig returns the kubeconfig. An empty address stands for the Service of the server.
func (f *factory) directConfig(ctx context.Context, s *session, address string, files credentialFiles) (*clientcmdapi.Config, error) {
	registered, err := directclient.Registered(ctx, s.discovery.RESTClient())
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("the server at %s has no APIService of Leat: Leat is not installed there; or it is that of \"leat up\", which is reached directly anyway", s.host)
	}
	if err != nil {
		return nil, err
	}
	cluster := &clientcmdapi.Cluster{Server: address, TLSServerName: registered.ServerName, CertificateAuthorityData: registered.CABundle}
	if address == "" {
		cluster.Server, cluster.TLSServerName = registered.Address(), ""
	}
	user := &clientcmdapi.AuthInfo{TokenFile: files.token, ClientCertificate: files.certificate, ClientKey: files.key}
	if files == (credentialFiles{}) {
		if user, err = f.currentUser(); err != nil {
			return nil, err
		}
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["leat"], config.AuthInfos["leat"] = cluster, user
	config.Contexts["leat"] = &clientcmdapi.Context{Cluster: "leat", AuthInfo: "leat", Namespace: s.namespace}
	config.CurrentContext = "leat"
	return config, nil
}

// currentUser returns the user of the kubeconfig in use, with the content of its files inlined.
func (f *factory) currentUser() (*clientcmdapi.AuthInfo, error) {
	raw, err := f.flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return nil, err
	}
	if *f.flags.Context != "" {
		raw.CurrentContext = *f.flags.Context
	}
	if err := errors.Join(clientcmdapi.MinifyConfig(&raw), clientcmdapi.FlattenConfig(&raw)); err != nil {
		return nil, fmt.Errorf("%w: use --token-file to name the user", err)
	}
	return raw.AuthInfos[raw.Contexts[raw.CurrentContext].AuthInfo], nil
}
