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

package api

import (
	"context"
	"fmt"
	"testing"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"

	serveroptions "github.com/leat-dev/leat/pkg/apiserver/options"
	"github.com/leat-dev/leat/pkg/registry"
	"github.com/leat-dev/leat/test/kit/host"
)

// The tests in the files registry_*_test.go run the stores of all kinds in this process, on an etcd with fsync.

// newRegistryConfig returns the configuration of a server with the stores of leat-apiserver with the given flags. Their
// prefix in etcd is the name of the test.
func newRegistryConfig(t *testing.T, etcd *host.Etcd, scheme *runtime.Scheme, args ...string) *genericapiserver.RecommendedConfig {
	t.Helper()
	options, err := serveroptions.NewOptions()
	if err != nil {
		t.Fatal(err)
	}
	flags := pflag.NewFlagSet(t.Name(), pflag.ContinueOnError)
	for _, group := range options.Flags().FlagSets {
		flags.AddFlagSet(group)
	}
	err = flags.Parse(append([]string{
		"--etcd-servers=" + etcd.Endpoint, "--etcd-cafile=" + etcd.CAFile, "--etcd-certfile=" + etcd.CertFile, "--etcd-keyfile=" + etcd.KeyFile,
		"--etcd-prefix=" + registryEtcdPrefix(t.Name()),
	}, args...))
	if err != nil {
		t.Fatal(err)
	}
	codecs := serializer.NewCodecFactory(scheme)
	config := genericapiserver.NewRecommendedConfig(codecs)
	if err := options.ApplyStorage(&config.Config, scheme, codecs); err != nil {
		t.Fatal(err)
	}
	return config
}

func registryEtcdPrefix(test string) string { return "/" + test }

// registryWatchingFromNow returns a getter whose stores start every watch at the current revision. Upstream's suite
// starts its watches at revision 1, because it expects an empty etcd.
func registryWatchingFromNow(getter generic.RESTOptionsGetter) generic.RESTOptionsGetter {
	return registry.Decorate(getter, func(store storage.Interface, _ *storagebackend.ConfigForResource) storage.Interface {
		return registryWatchFromNow{store}
	})
}

type registryWatchFromNow struct{ storage.Interface }

func (s registryWatchFromNow) Watch(ctx context.Context, key string, options storage.ListOptions) (watch.Interface, error) {
	revision, err := s.GetCurrentResourceVersion(ctx)
	if err != nil {
		return nil, err
	}
	options.ResourceVersion = fmt.Sprint(revision)
	return s.Interface.Watch(ctx, key, options)
}
