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

// Package options holds the flags of the server, and makes its configuration of them.
package options

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/union"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	cliflag "k8s.io/component-base/cli/flag"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/utils/clock"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/apiserver"
	"github.com/leat-dev/leat/pkg/apiserver/admission"
	"github.com/leat-dev/leat/pkg/apiserver/admission/deniedworker"
	"github.com/leat-dev/leat/pkg/apiserver/admission/queuelimit"
	"github.com/leat-dev/leat/pkg/apiserver/archive"
	"github.com/leat-dev/leat/pkg/apiserver/authentication/cachedx509"
	"github.com/leat-dev/leat/pkg/apiserver/authentication/pod"
	"github.com/leat-dev/leat/pkg/apiserver/authorization/cachingauthorizer"
	"github.com/leat-dev/leat/pkg/apiserver/authorization/withoutname"
	"github.com/leat-dev/leat/pkg/apiserver/authorization/worker"
	"github.com/leat-dev/leat/pkg/apiserver/filters"
	"github.com/leat-dev/leat/pkg/apiserver/flowcontrol"
	"github.com/leat-dev/leat/pkg/apiserver/hostaccess"
	"github.com/leat-dev/leat/pkg/apiserver/scheme"
	"github.com/leat-dev/leat/pkg/apiserver/storage"
	"github.com/leat-dev/leat/pkg/apiserver/workerlogs"
	generatedopenapi "github.com/leat-dev/leat/pkg/generated/openapi"
	registry "github.com/leat-dev/leat/pkg/registry/batch"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
)

// Options configure the server.
type Options struct {
	// Recommended are upstream's options for an aggregated server.
	Recommended *genericoptions.RecommendedOptions
	// Server are upstream's options for any API server: limits, timeouts, shutdown.
	Server *genericoptions.ServerRunOptions
	// Logs are the logging options.
	Logs *logs.Options
	// ControllerUsers are the users that are authorized by package withoutname.
	ControllerUsers []string
	// Workers configure the connections to workers.
	Workers *workerlogs.Options

	// Archive configures the archive.
	Archive *archive.StoreOptions

	// Standalone replaces the host cluster in standalone mode. Nil if there is a host.
	Standalone *Standalone

	versions basecompatibility.ComponentGlobalsRegistry
}

// Standalone holds what a host cluster provides otherwise.
type Standalone struct {
	// Host is the client config for the API that admission, priority and fairness, and informers read from.
	Host *rest.Config
	// Authenticator authenticates all requests.
	Authenticator authenticator.Request
	// ClientCA is the CA bundle of client certificates, which the server requests in the TLS handshake.
	ClientCA dynamiccertificates.CAContentProvider
	// Authorizer authorizes the requests on which the worker authorizer has no opinion.
	Authorizer authorizer.Authorizer
}

// NewOptions returns options with their defaults.
func NewOptions() (*Options, error) {
	recommended := genericoptions.NewRecommendedOptions("/leat", nil)
	recommended.Etcd.DefaultStorageMediaType = runtime.ContentTypeProtobuf
	if err := admission.Configure(recommended.Admission); err != nil {
		return nil, err
	}
	versions := newVersions()
	server := genericoptions.NewServerRunOptionsForComponent(ComponentName, versions)
	// The aggregator keeps few connections for long. It must notice that a replica shuts down before the replica
	// does.
	server.ShutdownDelayDuration = 15 * time.Second
	server.ShutdownSendRetryAfter = true
	server.ShutdownWatchTerminationGracePeriod = 30 * time.Second
	return &Options{
		Recommended:     recommended,
		Server:          server,
		Logs:            logs.NewOptions(),
		ControllerUsers: []string{v1alpha1.ControllerUser},
		Workers:         &workerlogs.Options{},
		Archive:         archive.NewStoreOptions(),
		versions:        versions,
	}, nil
}

// Flags returns the flags in named groups, as --help shows them.
func (o *Options) Flags() cliflag.NamedFlagSets {
	var sets cliflag.NamedFlagSets
	o.Recommended.Etcd.AddFlags(sets.FlagSet("etcd"))
	o.Recommended.SecureServing.AddFlags(sets.FlagSet("secure serving"))
	o.Recommended.CoreAPI.AddFlags(sets.FlagSet("host cluster"))
	o.Recommended.Authentication.AddFlags(sets.FlagSet("authentication"))
	o.Recommended.Authorization.AddFlags(sets.FlagSet("authorization"))
	o.Recommended.Admission.AddFlags(sets.FlagSet("admission"))
	o.Recommended.Audit.AddFlags(sets.FlagSet("audit"))
	o.Recommended.Features.AddFlags(sets.FlagSet("features"))
	o.Recommended.EgressSelector.AddFlags(sets.FlagSet("egress"))
	o.Recommended.Traces.AddFlags(sets.FlagSet("traces"))
	universal, server := pflag.NewFlagSet("", pflag.ContinueOnError), sets.FlagSet("server")
	o.Server.AddUniversalFlags(universal)
	universal.VisitAll(func(flag *pflag.Flag) {
		// The flag modifies --runtime-config, which the server does not have.
		if flag.Name != "runtime-config-emulation-forward-compatible" {
			server.AddFlag(flag)
		}
	})
	logsapi.AddFlags(o.Logs, sets.FlagSet("logs"))

	o.Workers.AddFlags(sets.FlagSet("workers"))
	o.Archive.AddFlags(sets.FlagSet("archive"))

	authorization := sets.FlagSet("authorization")
	authorization.StringSliceVar(&o.ControllerUsers, "controller-users", o.ControllerUsers,
		"Users, the controllers of tasks, whose access the host is asked for once a verb and namespace, instead of once an object.")
	return sets
}

// Complete sets the emulated versions and the feature gates from the flags. Call it before anything that reads feature
// gates: logging, Validate and Config.
func (o *Options) Complete() error { return o.versions.Set() }

// Validate returns the errors in the options. Call Complete before.
func (o *Options) Validate() []error {
	errs := o.Recommended.Validate()
	errs = append(errs, o.Server.Validate()...)
	errs = append(errs, o.Workers.Validate()...)
	errs = append(errs, o.Archive.Validate()...)
	if o.Recommended.SecureServing.BindPort == 0 {
		errs = append(errs, errors.New("--secure-port: give a port: the server speaks nothing but HTTPS"))
	}
	etcd := o.Recommended.Etcd
	errs = append(errs, validateEtcd("--etcd-servers", etcd.StorageConfig.Transport.ServerList, etcd.StorageConfig.Transport)...)
	// Validate of the etcd options has reported overrides that cannot be parsed.
	overrides, _ := genericoptions.ParseEtcdServersOverrides(etcd.EtcdServersOverrides)
	for _, override := range overrides {
		errs = append(errs, validateEtcd("--etcd-servers-overrides", override.Servers, etcd.StorageConfig.Transport)...)
	}
	return errs
}

// validateEtcd returns an error for servers that are not reached by mutual TLS: anyone on the network could read the
// traffic.
func validateEtcd(flag string, servers []string, transport storagebackend.TransportConfig) []error {
	var errs []error
	for _, server := range servers {
		switch {
		case strings.HasPrefix(server, "unix://"):
		case !strings.HasPrefix(server, "https://"):
			errs = append(errs, fmt.Errorf("%s: %q: etcd is reached only by mutual TLS: give an https:// address", flag, server))
		case transport.TrustedCAFile == "" || transport.CertFile == "" || transport.KeyFile == "":
			errs = append(errs, fmt.Errorf("%s: etcd is reached only by mutual TLS: give --etcd-cafile, --etcd-certfile and --etcd-keyfile too", flag))
		}
	}
	return errs
}

// Config returns the configuration of a server. Call Complete and Validate before.
func (o *Options) Config() (*apiserver.Config, error) {
	codecs := scheme.NewCodecs(scheme.Scheme)
	config := &apiserver.Config{
		GenericConfig: genericapiserver.NewRecommendedConfig(codecs),
		ExtraConfig:   apiserver.ExtraConfig{Codecs: codecs, PendingTasks: queuelimit.NewCounts(), Readers: &storage.Readers{}},
	}
	if err := o.applyTo(config); err != nil {
		return nil, err
	}
	return config, nil
}

// applyTo applies the options as RecommendedOptions.ApplyTo does, in the same order. It differs in the steps that
// ApplyTo cannot be extended by: a storage factory that honours --storage-media-type, our authorizers, which admission
// takes from the config, and our trigger in priority and fairness.
func (o *Options) applyTo(c *apiserver.Config) error {
	config, extra := c.GenericConfig, &c.ExtraConfig
	if err := o.Server.ApplyTo(&config.Config); err != nil {
		return err
	}
	config.FeatureGate = o.versions.FeatureGateFor(basecompatibility.DefaultKubeComponent)
	config.BuildHandlerChainFunc = func(handler http.Handler, c *genericapiserver.Config) http.Handler {
		return buildHandlerChain(handler, c, extra.Codecs, o.Server.ShutdownDelayDuration)
	}
	config.LongRunningFunc = genericfilters.BasicLongRunningRequestCheck(sets.NewString("watch"), sets.NewString("log"))

	namer := openapi.NewDefinitionNamer(scheme.Scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(generatedopenapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIConfig.Info.Title = "Leat"
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(generatedopenapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIV3Config.Info.Title = "Leat"

	r := o.Recommended
	if err := o.ApplyStorage(&config.Config, scheme.Scheme, extra.Codecs); err != nil {
		return err
	}
	if o.Standalone != nil {
		config.RESTOptionsGetter = storage.WithoutGarbageCollection(config.RESTOptionsGetter)
	}
	if err := r.EgressSelector.ApplyTo(&config.Config); err != nil {
		return err
	}
	if err := r.Traces.ApplyTo(config.EgressSelector, &config.Config); err != nil {
		return err
	}
	if err := r.SecureServing.MaybeDefaultWithSelfSignedCerts("localhost", nil, []net.IP{net.IPv4(127, 0, 0, 1)}); err != nil {
		return fmt.Errorf("create a self-signed serving certificate, as none is given: %w", err)
	}
	if err := r.SecureServing.ApplyToConfig(&config.Config); err != nil {
		return err
	}
	if err := o.applyHost(config, extra.Readers); err != nil {
		return err
	}
	if err := r.Audit.ApplyTo(&config.Config); err != nil {
		return err
	}

	// The admission plugins and the host's priority and fairness bound the requests of admission. The client's
	// default rate limit of five a second would delay creates.
	host := rest.CopyConfig(config.ClientConfig)
	host.QPS = -1
	client, err := kubernetes.NewForConfig(host)
	if err != nil {
		return err
	}
	dynamicClient, err := dynamic.NewForConfig(host)
	if err != nil {
		return err
	}
	if err := r.Features.ApplyTo(&config.Config, client, config.SharedInformerFactory); err != nil {
		return err
	}
	if config.FlowControl != nil {
		config.FlowControl = flowcontrol.WithTrigger(config.FlowControl, registry.Tasks.GroupResource, registry.Tasks.Trigger)
	}
	initializers := admission.Initializers(extra.PendingTasks, client.CoreV1())
	if o.Standalone == nil { // standalone mode has no namespace controller that would delete Workers
		initializers = append(initializers, deniedworker.Initializer(client.CoreV1()))
	}
	if err := r.Admission.ApplyTo(&config.Config, admission.Informers(config.SharedInformerFactory), client, dynamicClient, config.FeatureGate,
		config.EffectiveVersion, initializers...); err != nil {
		return err
	}

	extra.Certificates = map[string]func() ([]byte, error){
		"serving": func() ([]byte, error) {
			cert, _ := config.SecureServing.Cert.CurrentCertKeyContent()
			return cert, nil
		},
		"etcd_client":   readFile(r.Etcd.StorageConfig.Transport.CertFile),
		"worker_client": readFile(o.Workers.CertFile),
	}
	workers, err := o.Workers.New()
	if err != nil {
		return err
	}
	extra.Logs = workers
	namespaceID := archive.NamespaceNames
	if o.Standalone == nil {
		namespaceID = archive.NamespaceUIDs(client.CoreV1(), clock.RealClock{})
	}
	extra.Archive, err = o.Archive.New(workers, namespaceID)
	return err
}

// buildHandlerChain wraps upstream's handler chain, and the handler inside of it, with our filters. The last filter is
// the outermost.
func buildHandlerChain(handler http.Handler, c *genericapiserver.Config, codecs runtime.NegotiatedSerializer, shutdownDelay time.Duration) http.Handler {
	handler = task.WithTruncatedLogsAborted(handler)
	handler = filters.WithBufferedLists(handler)
	handler = filters.WithBodyLimits(handler, codecs, c.MaxRequestBodyBytes)
	handler = filters.WithoutTransformedYAML(handler, codecs)
	handler = filters.WithDeadlineGrace(handler)
	handler = genericapiserver.DefaultBuildHandlerChain(handler, c)
	handler = filters.WithSelectorLimits(handler, codecs)
	return filters.WithConnectionDrain(handler, c.ShutdownInitiatedNotify(), shutdownDelay)
}

// readFile returns a function that reads the file.
func readFile(path string) func() ([]byte, error) {
	return func() ([]byte, error) { return os.ReadFile(path) }
}

// ApplyStorage sets the config's RESTOptionsGetter to stores in etcd. Objects are encoded in the newest version of the
// scheme that the emulated version allows. codecs must be those of the scheme.
func (o *Options) ApplyStorage(config *genericapiserver.Config, scheme *runtime.Scheme, codecs runtime.StorageSerializer) error {
	etcd := *o.Recommended.Etcd
	etcd.StorageConfig.StorageObjectCountTracker = config.StorageObjectCountTracker
	factory := serverstorage.NewDefaultStorageFactory(etcd.StorageConfig, etcd.DefaultStorageMediaType, codecs,
		serverstorage.NewDefaultResourceEncodingConfigForEffectiveVersion(scheme, o.versions.EffectiveVersionFor(ComponentName)),
		serverstorage.NewResourceConfig(), nil)
	overrides, err := genericoptions.ParseEtcdServersOverrides(etcd.EtcdServersOverrides)
	if err != nil {
		return err
	}
	for _, override := range overrides {
		factory.SetEtcdLocation(override.GroupResource, override.Servers)
	}
	return etcd.ApplyWithStorageFactoryTo(factory, config)
}

// applyHost sets the authenticator, the authorizer, and the clients and informers that admission reads from: those of
// the host cluster, or of Standalone.
func (o *Options) applyHost(config *genericapiserver.RecommendedConfig, readers *storage.Readers) error {
	if o.Standalone == nil {
		r := o.Recommended
		authentication := *r.Authentication
		authentication.WithCustomRoundTripper(hostaccess.ForbiddenAsNotFound)
		if err := authentication.ApplyTo(&config.Authentication, config.SecureServing, config.OpenAPIConfig); err != nil {
			return err
		}
		if header := config.Authentication.RequestHeaderConfig; header != nil && !r.Authentication.SkipInClusterLookup {
			config.AddReadyzChecks(hostaccess.AuthenticationConfigCheck(header, config.SecureServing.ClientCA))
		}
		authorization := *r.Authorization
		authorization.AllowCacheTTL, authorization.DenyCacheTTL = 0, 0 // cachingauthorizer caches; two caches would add up their TTLs
		if err := authorization.ApplyTo(&config.Authorization); err != nil {
			return err
		}
		config.Authorization.Authorizer = cachingauthorizer.New(config.Authorization.Authorizer, r.Authorization.AllowCacheTTL, r.Authorization.DenyCacheTTL)
		config.Authentication.Authenticator = pod.New(config.Authentication.Authenticator, config.Authorization.Authorizer)
		if err := r.CoreAPI.ApplyTo(config); err != nil {
			return err
		}
		if err := hostaccess.AddGrantChecks(config, r); err != nil {
			return err
		}
	} else {
		config.Authentication.Authenticator = o.Standalone.Authenticator
		if err := config.Authentication.ApplyClientCert(o.Standalone.ClientCA, config.SecureServing); err != nil {
			return err
		}
		config.Authorization.Authorizer = o.Standalone.Authorizer
		config.ClientConfig = o.Standalone.Host
		config.EffectiveVersion = standaloneVersion{config.EffectiveVersion}
		client, err := kubernetes.NewForConfig(config.ClientConfig)
		if err != nil {
			return err
		}
		config.SharedInformerFactory = informers.NewSharedInformerFactory(client, 0)
	}

	cached := cachedx509.New(config.Authentication.Authenticator, func() []string {
		if header := config.Authentication.RequestHeaderConfig; header != nil {
			return header.UsernameHeaders.Value()
		}
		return nil
	}, clock.RealClock{})
	if ca := config.SecureServing.ClientCA; ca != nil {
		ca.AddListener(cached)
	}
	config.Authentication.Authenticator = cached

	controllers := sets.New(o.ControllerUsers...)
	delegated := withoutname.New(config.Authorization.Authorizer, func(u user.Info) bool { return controllers.Has(u.GetName()) })
	var err error
	config.Authorization.Authorizer, err = union.New(
		union.NamedAuthorizer{AuthorizerName: "leat.dev/worker", Authorizer: worker.New(
			[]worker.WorkerGetter{readers.Workers.FromCache, readers.Workers.FromEtcd},
			[]worker.TaskGetter{readers.Tasks.FromCache, readers.Tasks.FromEtcd})},
		union.NamedAuthorizer{AuthorizerName: "leat.dev/delegated", Authorizer: delegated},
	)
	return err
}
