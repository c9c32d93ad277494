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

// Package apiserver is the API server of batch.leat.dev.
package apiserver

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/pkg/apiserver/admission/queuelimit"
	"github.com/leat-dev/leat/pkg/apiserver/archive"
	"github.com/leat-dev/leat/pkg/apiserver/filters"
	"github.com/leat-dev/leat/pkg/apiserver/scheme"
	"github.com/leat-dev/leat/pkg/apiserver/storage"
	registry "github.com/leat-dev/leat/pkg/registry/batch"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
	"github.com/leat-dev/leat/pkg/registry/batch/taskset"
	"github.com/leat-dev/leat/pkg/registry/batch/worker"
)

// ExtraConfig is the configuration of the server beyond that of any API server.
type ExtraConfig struct {
	// Codecs are the codecs of scheme.Scheme.
	Codecs serializer.CodecFactory
	// Logs reads logs from workers.
	Logs task.LogSource
	// Archive keeps the output and the records of finished attempts. New sets its Objects.
	Archive *archive.Archive
	// PendingTasks are the counts that the TaskQueueLimit plugin decides by. The server fills them from its stores.
	PendingTasks *queuelimit.Counts
	// Readers are the readers of the worker authorizer. New sets their stores.
	Readers *storage.Readers
	// Certificates returns the certificates of the server, in PEM, by their name in the metric of their expiration.
	Certificates map[string]func() ([]byte, error)
}

// Config is the configuration of the server.
type Config struct {
	GenericConfig *genericapiserver.RecommendedConfig
	ExtraConfig   ExtraConfig
}

type completedConfig struct {
	GenericConfig genericapiserver.CompletedConfig
	ExtraConfig   *ExtraConfig
}

// CompletedConfig is a Config that only Complete can create.
type CompletedConfig struct {
	*completedConfig
}

// Complete sets the fields that are not set and derive from others.
func (c *Config) Complete() CompletedConfig {
	return CompletedConfig{&completedConfig{c.GenericConfig.Complete(), &c.ExtraConfig}}
}

// Server is an API server that is ready to run.
type Server struct {
	*genericapiserver.GenericAPIServer
	// Stores are the stores of all kinds.
	Stores *registry.Stores
}

// New returns a server.
func (c CompletedConfig) New() (*Server, error) {
	certificateExpiration.certificates.Store(&c.ExtraConfig.Certificates)
	generic, err := c.GenericConfig.New("leat-apiserver", genericapiserver.NewEmptyDelegate())
	if err != nil {
		return nil, err
	}
	stores, err := registry.NewStores(scheme.Scheme, storage.WithTranslatedErrors(c.GenericConfig.RESTOptionsGetter))
	if err != nil {
		return nil, err
	}
	c.ExtraConfig.Readers.Workers.SetStore(stores.Workers.Store)
	c.ExtraConfig.Readers.Tasks.SetStore(stores.Tasks.Store)
	if err := countPendingTasks(generic, stores, c.ExtraConfig.PendingTasks, c.GenericConfig.StorageInitializationTimeout); err != nil {
		return nil, err
	}
	c.ExtraConfig.Archive.Objects = objectsOf(stores)
	if err := generic.AddPostStartHook("leat.dev/archive", func(hook genericapiserver.PostStartHookContext) error {
		go c.ExtraConfig.Archive.Run(hook)
		return nil
	}); err != nil {
		return nil, err
	}
	group := genericapiserver.NewDefaultAPIGroupInfo(batch.GroupName, scheme.Scheme, runtime.NewParameterCodec(scheme.Scheme), c.ExtraConfig.Codecs)
	group.NegotiatedSerializer = filters.LimitCodecs(group.NegotiatedSerializer)
	group.VersionedResourcesStorageMap = stores.Storage(task.Subresources{
		Logs:     c.ExtraConfig.Logs,
		Attempts: c.ExtraConfig.Archive,
		GetWorker: func(ctx context.Context, name string) (*batch.Worker, error) {
			obj, err := stores.Workers.Store.Get(ctx, name, &metav1.GetOptions{})
			if err != nil {
				return nil, err
			}
			return obj.(*batch.Worker), nil
		},
	}, taskset.Subresources{Attempts: c.ExtraConfig.Archive}, worker.Subresources{Archive: c.ExtraConfig.Archive})
	if err := generic.InstallAPIGroup(&group); err != nil {
		return nil, err
	}
	return &Server{generic, stores}, nil
}

// Run serves until ctx is done, and then shuts down gracefully.
func (s *Server) Run(ctx context.Context) error {
	return s.GenericAPIServer.PrepareRun().RunWithContext(ctx)
}
