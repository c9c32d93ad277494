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

package options

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	genericoptions "k8s.io/apiserver/pkg/server/options"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/apiserver"
	"github.com/leat-dev/leat/pkg/apiserver/admission/queuelimit"
	"github.com/leat-dev/leat/pkg/apiserver/scheme"
	"github.com/leat-dev/leat/pkg/apiserver/storage"
	"github.com/leat-dev/leat/pkg/standalone/pki"
)

// flagTest sets a flag to a value other than its default and names what it should change.
type flagTest struct {
	value string
	// differs returns what the flag should change. Nil means that the flag decides whether the options can be
	// applied.
	differs func(*applied) any
	// with are other flags that the flag requires. Files are relative to the directory of the fixture.
	with []string
	// before, if set, changes the options before the flags are parsed.
	before func(*Options)
}

// applied is the config that flags result in.
type applied struct {
	*fixture
	*genericapiserver.RecommendedConfig
	options *Options
	err     error
}

// flagTests holds tests for all flags but those of logging, which main applies.
var flagTests = map[string]flagTest{
	"delete-collection-workers":                   {value: "7", differs: stores},
	"enable-garbage-collector":                    {value: "false", differs: stores},
	"encryption-provider-config":                  {value: "encryption.yaml", differs: stores},
	"encryption-provider-config-automatic-reload": {value: "true", differs: transformers, with: []string{"--encryption-provider-config=encryption.yaml"}},
	"etcd-cafile":                                 {value: "other.crt", differs: stores},
	"etcd-certfile":                               {value: "other.crt", differs: stores},
	"etcd-compaction-interval":                    {value: "7m", differs: stores},
	"etcd-count-metric-poll-period":               {value: "7m", differs: stores},
	"etcd-db-metric-poll-interval":                {value: "7m", differs: stores},
	"etcd-healthcheck-timeout":                    {value: "7s", differs: stores},
	"etcd-keyfile":                                {value: "other.key", differs: stores},
	"etcd-prefix":                                 {value: "/other", differs: stores},
	"etcd-readycheck-timeout":                     {value: "7s", differs: stores},
	"etcd-servers":                                {value: "https://127.0.0.1:2", differs: stores},
	"etcd-servers-overrides":                      {value: batch.GroupName + "/tasks#https://127.0.0.1:2", differs: stores},
	"lease-reuse-duration-seconds":                {value: "7", differs: stores},
	"storage-backend":                             {value: "etcd3", differs: stores},
	"storage-media-type":                          {value: "application/json", differs: stores},
	"watch-cache":                                 {value: "false", differs: watchCache},
	"watch-cache-sizes":                           {value: "tasks." + batch.GroupName + "#0", differs: watchCache},

	"bind-address":                     {value: "127.0.0.2", differs: address},
	"cert-dir":                         {value: "certs", differs: func(a *applied) any { return a.SecureServing.Cert.Name() }, with: []string{"--tls-cert-file=", "--tls-private-key-file="}},
	"disable-http2-serving":            {value: "true", differs: serving},
	"http2-max-streams-per-connection": {value: "7", differs: serving},
	"permit-address-sharing":           {value: "true", differs: addressSharing},
	"permit-port-sharing":              {value: "true", differs: portSharing},
	"secure-port":                      {value: "port", differs: onPort},
	"tls-cert-file":                    {value: "copy.crt", differs: serving},
	"tls-cipher-suites":                {value: "TLS_AES_128_GCM_SHA256", differs: serving},
	"tls-curve-preferences":            {value: "29", differs: serving},
	"tls-min-version":                  {value: "VersionTLS13", differs: serving},
	"tls-private-key-file":             {value: "copy.key", differs: serving},
	"tls-sni-cert-key":                 {value: "server.crt,server.key", differs: serving},

	"kubeconfig": {value: "other.kubeconfig", differs: func(a *applied) any { return a.ClientConfig.Host }},

	"authentication-kubeconfig":              {value: "other.kubeconfig", differs: authentication},
	"authentication-skip-lookup":             {value: "true", differs: authentication},
	"authentication-token-webhook-cache-ttl": {value: "7s", differs: authentication},
	"authentication-tolerate-lookup-failure": {value: "true", with: []string{"--authentication-kubeconfig=dead.kubeconfig"}},
	"client-ca-file":                         {value: "other.crt", differs: func(a *applied) any { return a.SecureServing.ClientCA.Name() }},
	"requestheader-allowed-names":            {value: "aggregator", differs: authentication, with: ownAggregator},
	"requestheader-client-ca-file":           {value: "other.crt", differs: authentication, with: []string{"--authentication-skip-lookup"}},
	"requestheader-extra-headers-prefix":     {value: "x-other-", differs: requestHeaders, with: ownAggregator},
	"requestheader-group-headers":            {value: "x-other", differs: requestHeaders, with: ownAggregator},
	"requestheader-uid-headers":              {value: "x-remote-uid,x-other", differs: requestHeaders, with: ownAggregator},
	"requestheader-username-headers":         {value: "x-other", differs: requestHeaders, with: ownAggregator},

	"authorization-always-allow-paths":             {value: "/open", differs: decision},
	"authorization-kubeconfig":                     {value: "other.kubeconfig", differs: authorization},
	"authorization-webhook-cache-authorized-ttl":   {value: "7s", differs: authorization},
	"authorization-webhook-cache-unauthorized-ttl": {value: "7s", differs: authorization},
	"controller-users":                             {value: "someone", differs: reviewedNames},

	"admission-control-config-file": {value: "admission.yaml", differs: admissionChain},
	"disable-admission-plugins":     {value: "ResourceQuota", differs: admissionChain},
	"enable-admission-plugins": {value: "ResourceQuota", differs: admissionChain, before: func(o *Options) {
		o.Recommended.Admission.DefaultOffPlugins = sets.New("ResourceQuota") // none is otherwise
	}},

	"audit-policy-file":                     {value: "other-policy.yaml", differs: auditPolicy, with: auditLog},
	"audit-log-batch-buffer-size":           {value: "7", differs: audit, with: auditLogBatch},
	"audit-log-batch-max-size":              {value: "7", differs: audit, with: auditLogBatch},
	"audit-log-batch-max-wait":              {value: "7s", differs: audit, with: auditLogBatch},
	"audit-log-batch-throttle-burst":        {value: "7", differs: audit, with: auditLogThrottled},
	"audit-log-batch-throttle-enable":       {value: "true", differs: audit, with: append(auditLogThrottled, "--audit-log-batch-throttle-enable=false")},
	"audit-log-batch-throttle-qps":          {value: "7", differs: audit, with: auditLogThrottled},
	"audit-log-compress":                    {value: "true", differs: audit, with: auditLog},
	"audit-log-format":                      {value: "legacy", differs: audit, with: auditLog},
	"audit-log-maxage":                      {value: "7", differs: audit, with: auditLog},
	"audit-log-maxbackup":                   {value: "7", differs: audit, with: auditLog},
	"audit-log-maxsize":                     {value: "7", differs: audit, with: auditLog},
	"audit-log-mode":                        {value: "batch", differs: audit, with: auditLog},
	"audit-log-path":                        {value: "-", differs: audit, with: auditPolicyFile},
	"audit-log-truncate-enabled":            {value: "true", differs: audit, with: auditLog},
	"audit-log-truncate-max-batch-size":     {value: "700000", differs: audit, with: append(auditLog, "--audit-log-truncate-enabled")},
	"audit-log-truncate-max-event-size":     {value: "7000", differs: audit, with: append(auditLog, "--audit-log-truncate-enabled")},
	"audit-log-version":                     {value: "audit.k8s.io/v2", with: auditLog},
	"audit-webhook-batch-buffer-size":       {value: "7", differs: audit, with: auditWebhook},
	"audit-webhook-batch-max-size":          {value: "7", differs: audit, with: auditWebhook},
	"audit-webhook-batch-max-wait":          {value: "7s", differs: audit, with: auditWebhook},
	"audit-webhook-batch-throttle-burst":    {value: "7", differs: audit, with: auditWebhook},
	"audit-webhook-batch-throttle-enable":   {value: "false", differs: audit, with: auditWebhook},
	"audit-webhook-batch-throttle-qps":      {value: "7", differs: audit, with: auditWebhook},
	"audit-webhook-config-file":             {value: "kubeconfig", differs: audit, with: auditPolicyFile},
	"audit-webhook-initial-backoff":         {value: "7s", differs: audit, with: auditWebhook},
	"audit-webhook-mode":                    {value: "blocking", differs: audit, with: auditWebhook},
	"audit-webhook-truncate-enabled":        {value: "true", differs: audit, with: auditWebhook},
	"audit-webhook-truncate-max-batch-size": {value: "700000", differs: audit, with: append(auditWebhook, "--audit-webhook-truncate-enabled")},
	"audit-webhook-truncate-max-event-size": {value: "7000", differs: audit, with: append(auditWebhook, "--audit-webhook-truncate-enabled")},
	"audit-webhook-version":                 {value: "audit.k8s.io/v2", with: auditWebhook},

	"worker-address-ranges":     {value: "10.0.0.0/8", differs: workerClient},
	"worker-client-certificate": {value: "worker-copy.crt", differs: workerClient, with: toWorkers},
	"worker-client-key":         {value: "worker-copy.key", differs: workerClient, with: toWorkers},

	"contention-profiling":           {value: "true", differs: func(a *applied) any { return a.EnableContentionProfiling }},
	"debug-socket-path":              {value: "/debug.sock", differs: func(a *applied) any { return a.DebugSocketPath }},
	"enable-priority-and-fairness":   {value: "false", differs: func(a *applied) any { return a.FlowControl != nil }},
	"archive":                        {value: "file:///other", differs: archiveOf, with: []string{"--archive=file:///dir"}},
	"archive-s3-endpoint":            {value: "https://s3.example.com", differs: archiveOf, with: toBucket},
	"archive-s3-region":              {value: "eu-1", differs: archiveOf, with: toBucket},
	"archive-s3-credentials-file":    {value: "credentials", differs: archiveOf, with: toBucket},
	"archive-s3-ca-file":             {value: "missing.crt", with: toBucket},
	"archive-retention":              {value: "7m", differs: archiveOf, with: []string{"--archive=file:///dir"}},
	"archive-max-rate-per-namespace": {value: "7Mi", differs: archiveOf},
	"archive-max-bytes-per-attempt":  {value: "7Mi", differs: archiveOf},

	"profiling":                   {value: "false", differs: func(a *applied) any { return a.EnableProfiling }},
	"egress-selector-config-file": {value: "egress.yaml", differs: func(a *applied) any { return a.EgressSelector != nil }},
	"tracing-config-file":         {value: "tracing.yaml", differs: func(a *applied) any { return fmt.Sprintf("%T", a.TracerProvider) }},

	"advertise-address":                       {value: "127.0.0.3", differs: func(a *applied) any { return a.PublicAddress.String() }},
	"cors-allowed-origins":                    {value: "//example.com$", differs: func(a *applied) any { return fmt.Sprint(a.CorsAllowedOriginList) }},
	"external-hostname":                       {value: "example.com", differs: func(a *applied) any { return a.ExternalAddress }},
	"goaway-chance":                           {value: "0.01", differs: func(a *applied) any { return a.GoawayChance }},
	"livez-grace-period":                      {value: "7s", differs: func(a *applied) any { return a.LivezGracePeriod }},
	"max-mutating-requests-inflight":          {value: "7", differs: func(a *applied) any { return a.MaxMutatingRequestsInFlight }},
	"max-requests-inflight":                   {value: "7", differs: func(a *applied) any { return a.MaxRequestsInFlight }},
	"min-request-timeout":                     {value: "7", differs: func(a *applied) any { return a.MinRequestTimeout }},
	"request-timeout":                         {value: "7s", differs: func(a *applied) any { return a.RequestTimeout }},
	"shutdown-delay-duration":                 {value: "7s", differs: func(a *applied) any { return a.ShutdownDelayDuration }},
	"shutdown-send-retry-after":               {value: "false", differs: func(a *applied) any { return a.ShutdownSendRetryAfter }},
	"shutdown-watch-termination-grace-period": {value: "7s", differs: func(a *applied) any { return a.ShutdownWatchTerminationGracePeriod }},
	"storage-initialization-timeout":          {value: "7s", differs: func(a *applied) any { return a.StorageInitializationTimeout }},
	"strict-transport-security-directives":    {value: "preload", differs: func(a *applied) any { return fmt.Sprint(a.HSTSDirectives) }},
}

// versionFlags are the flags of versions and feature gates, which TestVersionsAndFeatureGates tests.
var versionFlags = []string{"emulated-version", "emulation-forward-compatible", "feature-gates", "min-compatibility-version"}

var (
	ownAggregator     = []string{"--authentication-skip-lookup", "--requestheader-client-ca-file=ca.crt"}
	toWorkers         = []string{"--worker-client-certificate=worker.crt", "--worker-client-key=worker.key"}
	auditPolicyFile   = []string{"--audit-policy-file=policy.yaml"}
	auditLog          = []string{"--audit-policy-file=policy.yaml", "--audit-log-path=audit.log"}
	auditLogBatch     = []string{"--audit-policy-file=policy.yaml", "--audit-log-path=audit.log", "--audit-log-mode=batch"}
	auditLogThrottled = append(slices.Clip(auditLogBatch), "--audit-log-batch-throttle-enable", "--audit-log-batch-throttle-qps=3", "--audit-log-batch-throttle-burst=3")
	auditWebhook      = []string{"--audit-policy-file=policy.yaml", "--audit-webhook-config-file=kubeconfig"}
)

func stores(a *applied) any {
	options, err := a.RESTOptionsGetter.GetRESTOptions(batch.Resource("tasks"), &batch.Task{})
	if err != nil {
		return err
	}
	options.Decorator = nil
	return fingerprint(options)
}

func transformers(a *applied) any { return fmt.Sprintf("%T", a.ResourceTransformers) }

func watchCache(a *applied) any {
	options, err := a.RESTOptionsGetter.GetRESTOptions(batch.Resource("tasks"), &batch.Task{})
	if err != nil {
		return err
	}
	return reflect.ValueOf(options.Decorator).Pointer()
}

func serving(a *applied) any {
	serving := *a.SecureServing
	serving.Listener = nil
	// The certificate of the loopback client is new for each server.
	serving.SNICerts = slices.DeleteFunc(slices.Clone(serving.SNICerts), func(cert dynamiccertificates.SNICertKeyContentProvider) bool {
		return cert.Name() == "self-signed loopback"
	})
	return fingerprint(serving)
}

func address(a *applied) any { return a.SecureServing.Listener.Addr().(*net.TCPAddr).IP.String() }

func onPort(a *applied) any {
	_, port, err := net.SplitHostPort(a.SecureServing.Listener.Addr().String())
	return fmt.Sprint(port == a.port, err)
}

// addressSharing returns the option: on Linux, Go sets SO_REUSEADDR anyway.
func addressSharing(a *applied) any { return a.options.Recommended.SecureServing.PermitAddressSharing }

func portSharing(a *applied) any {
	connection, err := a.SecureServing.Listener.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	const reusePort = 0xf // SO_REUSEPORT
	var value int
	if controlErr := connection.Control(func(fd uintptr) { value, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, reusePort) }); controlErr != nil {
		return controlErr
	}
	return fmt.Sprint(value, err)
}

func authentication(a *applied) any { return fingerprint(a.Authentication) }

func requestHeaders(a *applied) any {
	headers := a.Authentication.RequestHeaderConfig
	return fmt.Sprint(headers.UsernameHeaders.Value(), headers.UIDHeaders.Value(), headers.GroupHeaders.Value(), headers.ExtraHeaderPrefixes.Value())
}

func authorization(a *applied) any { return fingerprint(a.Authorization) }

// decision returns the decision on a request for /open, which the host does not allow.
func decision(a *applied) any {
	decision, _, err := a.Authorization.Authorizer.Authorize(context.Background(), authorizer.AttributesRecord{
		User: &user.DefaultInfo{Name: "someone"}, Verb: "get", Path: "/open",
	})
	return fmt.Sprint(decision, err)
}

// reviewedNames returns the object names in the reviews for the get of a task.
func reviewedNames(a *applied) any {
	a.reviewed()
	if _, _, err := a.Authorization.Authorizer.Authorize(context.Background(), authorizer.AttributesRecord{
		User: &user.DefaultInfo{Name: "someone"}, Verb: "get", APIGroup: batch.GroupName, APIVersion: "v1alpha1", Resource: "tasks",
		Namespace: "n", Name: "a", ResourceRequest: true,
	}); err != nil {
		return err
	}
	return fmt.Sprint(a.reviewed())
}

func admissionChain(a *applied) any { return fingerprint(a.AdmissionControl) }

// toBucket is an archive in a bucket.
var toBucket = []string{"--archive=s3://bucket/prefix"}

func archiveOf(a *applied) any {
	kept, err := a.options.Archive.New(nil, nil)
	if err != nil {
		return err
	}
	return fingerprint(kept)
}

func workerClient(a *applied) any {
	client, err := a.options.Workers.New()
	if err != nil {
		return err
	}
	return fingerprint(client)
}

func audit(a *applied) any { return fingerprint(a.AuditBackend) }

func auditPolicy(a *applied) any { return fingerprint(a.AuditPolicyRuleEvaluator) }

// fixture is a host and a directory with the files that flags name.
type fixture struct {
	dir string
	// port replaces the flag value "port".
	port  string
	mu    sync.Mutex
	names []string // in reviews
}

// reviewed returns the names in reviews since the last call.
func (f *fixture) reviewed() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	names := f.names
	f.names = nil
	return names
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{dir: t.TempDir(), port: freePort(t)}
	ca, err := pki.NewCA("ca")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.IssueServer("localhost")
	if err != nil {
		t.Fatal(err)
	}
	workerCert, workerKey, err := ca.IssueClient(v1alpha1.WorkerClientName)
	if err != nil {
		t.Fatal(err)
	}
	host := httptest.NewServer(f.host(string(ca.CertPEM())))
	t.Cleanup(host.Close)
	other := httptest.NewServer(f.host(string(ca.CertPEM())))
	t.Cleanup(other.Close)
	kubeconfig := func(server string) string {
		return fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "host",
			"clusters": [{"name": "host", "cluster": {"server": %q}}], "users": [{"name": "user", "user": {}}],
			"contexts": [{"name": "host", "context": {"cluster": "host", "user": "user"}}]}`, server)
	}
	policy := func(level string) string {
		return fmt.Sprintf(`{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": %q}]}`, level)
	}
	for name, content := range map[string]string{
		"ca.crt": string(ca.CertPEM()), "other.crt": string(ca.CertPEM()), "other.key": string(key),
		"server.crt": string(cert), "server.key": string(key), "copy.crt": string(cert), "copy.key": string(key),
		"worker.crt": string(workerCert), "worker.key": string(workerKey), "worker-copy.crt": string(workerCert), "worker-copy.key": string(workerKey),
		"kubeconfig": kubeconfig(host.URL), "other.kubeconfig": kubeconfig(other.URL), "dead.kubeconfig": kubeconfig("http://127.0.0.1:1"),
		"policy.yaml": policy("Metadata"), "other-policy.yaml": policy("Request"),
		"encryption.yaml": `{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": [
			{"resources": ["tasks.batch.leat.dev"], "providers": [{"secretbox": {"keys": [{"name": "k", "secret": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}]}}]}]}`,
		"egress.yaml": `{"apiVersion": "apiserver.k8s.io/v1beta1", "kind": "EgressSelectorConfiguration", "egressSelections": [
			{"name": "cluster", "connection": {"proxyProtocol": "Direct"}}]}`,
		"tracing.yaml": `{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "TracingConfiguration", "samplingRatePerMillion": 7}`,
		"admission.yaml": `{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": [
			{"name": "ResourceQuota", "configuration": {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "ResourceQuotaConfiguration",
				"limitedResources": [{"resource": "pods", "matchContains": ["pods"]}]}}]}`,
	} {
		if err := os.WriteFile(filepath.Join(f.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// host returns a host cluster that accepts no token, allows nothing and publishes the authentication ConfigMap.
func (f *fixture) host(ca string) http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, object any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(object)
	}
	mux.HandleFunc("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, &corev1.ConfigMap{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "extension-apiserver-authentication"},
			Data: map[string]string{
				"client-ca-file": ca, "requestheader-client-ca-file": ca, "requestheader-username-headers": `["X-Remote-User"]`,
				"requestheader-group-headers": `["X-Remote-Group"]`, "requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
				"requestheader-allowed-names": `[]`,
			},
		})
	})
	mux.HandleFunc("/apis/authorization.k8s.io/v1/subjectaccessreviews", func(w http.ResponseWriter, r *http.Request) {
		review := &authorizationv1.SubjectAccessReview{}
		if err := json.NewDecoder(r.Body).Decode(review); err == nil && review.Spec.ResourceAttributes != nil {
			f.mu.Lock()
			f.names = append(f.names, review.Spec.ResourceAttributes.Name)
			f.mu.Unlock()
		}
		answer(w, review)
	})
	mux.HandleFunc("/apis/authentication.k8s.io/v1/tokenreviews", func(w http.ResponseWriter, r *http.Request) {
		answer(w, &authenticationv1.TokenReview{TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview"}})
	})
	return mux
}

// apply applies flags as the program does. It replaces values that name a file of the fixture by its path.
func (f *fixture) apply(t *testing.T, before func(*Options), args ...string) *applied {
	t.Helper()
	options, err := NewOptions()
	if err != nil {
		t.Fatal(err)
	}
	if before != nil {
		before(options)
	}
	flags := flagSet(options)
	args = append([]string{
		"--etcd-servers=https://127.0.0.1:1", "--etcd-cafile=ca.crt", "--etcd-certfile=server.crt", "--etcd-keyfile=server.key",
		"--kubeconfig=kubeconfig", "--authentication-kubeconfig=kubeconfig", "--authorization-kubeconfig=kubeconfig",
		"--tls-cert-file=server.crt", "--tls-private-key-file=server.key", "--cert-dir=" + filepath.Join(f.dir, "own-certs"), "--bind-address=127.0.0.1", "--secure-port=" + freePort(t),
	}, args...)
	for i, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		parts := strings.Split(value, ",")
		for j, part := range parts {
			if _, err := os.Stat(filepath.Join(f.dir, part)); part != "" && err == nil || part == "certs" || part == "audit.log" {
				parts[j] = filepath.Join(f.dir, part)
			}
		}
		if value != "" {
			args[i] = name + "=" + strings.Join(parts, ",")
		}
	}
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(append([]error{options.Complete()}, options.Validate()...)...); err != nil {
		return &applied{err: err}
	}
	// Health checks would keep connecting to an etcd that does not exist.
	options.Recommended.Etcd.SkipHealthEndpoints = true
	codecs := scheme.NewCodecs(scheme.Scheme)
	config := &apiserver.Config{
		GenericConfig: genericapiserver.NewRecommendedConfig(codecs),
		ExtraConfig:   apiserver.ExtraConfig{Codecs: codecs, PendingTasks: queuelimit.NewCounts(), Readers: &storage.Readers{}},
	}
	err = options.applyTo(config)
	t.Cleanup(func() { config.GenericConfig.SecureServing.Listener.Close() })
	return &applied{f, config.GenericConfig, options, err}
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func TestEveryFlagHasAnEffect(t *testing.T) {
	options, err := NewOptions()
	if err != nil {
		t.Fatal(err)
	}
	named := options.Flags()
	known := map[string]bool{}
	f := newFixture(t)
	// bases holds two configs for each set of required flags.
	bases := map[string][2]*applied{}
	for _, set := range named.Order {
		named.FlagSets[set].VisitAll(func(flag *pflag.Flag) {
			known[flag.Name] = true
			test, ok := flagTests[flag.Name]
			if flag.Deprecated != "" && !ok || slices.Contains(versionFlags, flag.Name) || set == "logs" {
				return
			}
			if !ok {
				t.Errorf("--%s: add it to flagTests, or remove the flag", flag.Name)
				return
			}
			with := fmt.Sprint(test.with, test.before != nil)
			if _, ok := bases[with]; !ok {
				bases[with] = [2]*applied{f.apply(t, test.before, test.with...), f.apply(t, test.before, test.with...)}
			}
			t.Run(flag.Name, func(t *testing.T) {
				look := func(a *applied) any {
					if test.differs == nil {
						return a.err == nil
					}
					if a.err != nil {
						t.Fatal(a.err)
					}
					return test.differs(a)
				}
				without, again := look(bases[with][0]), look(bases[with][1])
				value := strings.Replace(test.value, "port", f.port, 1)
				with := look(f.apply(t, test.before, append(slices.Clip(test.with), "--"+flag.Name+"="+value)...))
				if without != again {
					t.Fatalf("two configs without the flag differ:\n%s", cmp.Diff(without, again))
				}
				if without == with {
					t.Errorf("the flag changes nothing: %.1000v", with)
				}
			})
		})
	}
	for name := range flagTests {
		if !known[name] {
			t.Errorf("there is no flag --%s", name)
		}
	}
}

// fingerprint returns a string of all values that are reachable from a value, including private ones, but not of the
// types in unsteady.
func fingerprint(value any) string {
	b := &strings.Builder{}
	write(b, reflect.ValueOf(value), map[uintptr]bool{}, 0)
	return b.String()
}

// unsteady are the types that hold times, randomness, connections or global state.
var unsteady = []string{
	"time.Time", "rand.", "http.", "sync.", "atomic.Int", "atomic.Uint", "runtime.Scheme", "serializer.CodecFactory", "tls.", "informers.",
	"workqueue.", "prometheus.", "cel.", "environment.",
}

func write(b *strings.Builder, v reflect.Value, seen map[uintptr]bool, depth int) {
	if !v.IsValid() || depth > 30 || slices.ContainsFunc(unsteady, func(prefix string) bool {
		return strings.HasPrefix(strings.TrimLeft(v.Type().String(), "*"), prefix)
	}) {
		return
	}
	switch v.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16,
		reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64, reflect.String:
		fmt.Fprintf(b, " %v", v)
	case reflect.Chan:
		fmt.Fprintf(b, " cap %d", v.Cap())
	case reflect.Pointer:
		if v.IsNil() || seen[v.Pointer()] {
			return
		}
		seen[v.Pointer()] = true
		write(b, v.Elem(), seen, depth+1)
	case reflect.Interface:
		if !v.IsNil() {
			fmt.Fprintf(b, " %s", v.Elem().Type())
			write(b, v.Elem(), seen, depth+1)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fmt.Fprintf(b, "\n%s%s:", strings.Repeat(" ", depth), v.Type().Field(i).Name)
			write(b, v.Field(i), seen, depth+1)
		}
	case reflect.Slice, reflect.Array:
		fmt.Fprintf(b, " [%d]", v.Len())
		for i := range v.Len() {
			write(b, v.Index(i), seen, depth+1)
		}
	case reflect.Map:
		entries := []string{}
		for iterator := v.MapRange(); iterator.Next(); {
			entry := &strings.Builder{}
			write(entry, iterator.Key(), seen, depth+1)
			write(entry, iterator.Value(), seen, depth+1)
			entries = append(entries, entry.String())
		}
		slices.Sort(entries)
		fmt.Fprint(b, entries)
	}
}

// TestRecommendedOptionsAreAllApplied fails when upstream adds an option, since applyTo repeats the steps of
// RecommendedOptions.ApplyTo.
func TestRecommendedOptionsAreAllApplied(t *testing.T) {
	known := []string{
		"Etcd", "SecureServing", "Authentication", "Authorization", "Audit", "Features", "CoreAPI", "Admission", "EgressSelector", "Traces",
		// applyTo passes these to Admission.ApplyTo itself.
		"FeatureGate", "ExtraAdmissionInitializers",
	}
	options := reflect.TypeFor[genericoptions.RecommendedOptions]()
	for i := range options.NumField() {
		name := options.Field(i).Name
		if i := slices.Index(known, name); i >= 0 {
			known = slices.Delete(known, i, i+1)
		} else {
			t.Errorf("upstream's options have a new field %s: apply it in applyTo, add its flags to Flags, and then its name here", name)
		}
	}
	if len(known) > 0 {
		t.Errorf("upstream's options have lost %v", known)
	}
}
