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

package incluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	certutil "k8s.io/client-go/util/cert"

	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/host"
)

// rotation is the state of a rotation of certificates.
type rotation struct {
	*replicated
	// admin is a client of the host with a valid certificate.
	admin *kubernetes.Clientset
	// serving has the CAs of the servers' certificates.
	serving []byte
}

// testRotation replaces every CA and every certificate under load, with an overlap, until the old ones are invalid. It
// checks that no process restarts and no request fails.
func testRotation(t *testing.T, i *replicated) {
	const perSecond = 40
	ctx := t.Context()
	r := &rotation{i, i.Env.HostClient(t), i.Env.Anonymous(t).CAData}
	processes := []*host.Process{i.Host.APIServer, i.replicas[0].Server, i.replicas[1].Server}
	pids := []int{processes[0].PID(), processes[1].PID(), processes[2].PID()}
	newServing := kit.Must(pki.NewCA("new-leat-serving"))(t)
	both := slices.Concat(r.serving, newServing.CertPEM())

	// One load uses a token, which the rotation does not affect. The other uses a certificate, and changes it during the
	// overlap.
	throughHost, direct := newNamespace(t, i.Env, "rotation-through-host"), newNamespace(t, i.Env, "rotation-direct")
	people := byToken(t, i.Env, throughHost, "people")
	atHost := i.Person(t, "whoever")
	people.Host, people.CAData = atHost.Host, atHost.CAData
	kit.Eventually(t, "the service account may list", lists(people, tasksPath(throughHost)))
	followers := []*follower{followInformer(t, people, throughHost), followRaw(t, tasksOf(t, people, throughHost))}
	worker := i.replicas[1].Direct(t, "alice", "leat:admins")
	worker.CAData = both
	loads := []*load{newLoad(t, people, throughHost, perSecond), newLoad(t, worker, direct, perSecond)}
	awaitLoad := func() {
		t.Helper()
		for _, load := range loads {
			load.awaitRequests(t, perSecond)
		}
	}

	t.Run("serving certificate", func(t *testing.T) {
		start := time.Now()
		kit.Check(t, i.Host.RegisterLeat(ctx, i.service.port, both))
		cert, key, err := newServing.IssueServer(host.LeatService, "127.0.0.1", "localhost")
		kit.Check(t, err)
		write(t, i.ServingKeyFile, key)
		write(t, i.ServingCertFile, cert)
		for _, replica := range i.replicas {
			address := kit.Must(url.Parse(replica.Anonymous(t).Host))(t).Host
			kit.Eventually(t, "the replica serves the new certificate", func(context.Context) error { return shows(address, cert) })
		}
		awaitLoad()
		kit.Check(t, i.Host.RegisterLeat(ctx, i.service.port, newServing.CertPEM()))
		r.serving = newServing.CertPEM()
		awaitLoad()
		t.Logf("done in %s", time.Since(start).Round(time.Second))

		end := kit.Must(certutil.ParseCertsPEM(cert))(t)[0].NotAfter.Unix()
		for _, replica := range i.replicas {
			metrics := kit.Do(t, r.at(t, replica, i.Host.ClientCA, "prometheus", "system:monitoring"), http.MethodGet, "/metrics", "")
			want := fmt.Sprintf("leat_apiserver_certificate_expiration_timestamp_seconds{certificate=\"serving\"} %g\n", float64(end))
			if !strings.Contains(metrics.Body, want) || !strings.Contains(metrics.Body, "\napiserver_client_certificate_expiration_seconds_count ") {
				t.Errorf("metrics: got %d without %q or without the expiration of client certificates", metrics.Code, want)
			}
		}
	})

	t.Run("front-proxy authority", func(t *testing.T) {
		start := time.Now()
		claim := []string{"X-Remote-User", "alice", "X-Remote-Group", "leat:admins"}
		expectCode := func(ca *pki.CA, want int) {
			t.Helper()
			for _, replica := range i.replicas {
				config := r.at(t, replica, ca, "front-proxy-client")
				kit.Eventually(t, fmt.Sprintf("requests of the aggregator get %d", want), answers(config, want, claim...))
			}
		}
		old, renewed := i.Host.FrontProxyCA, kit.Must(pki.NewCA("new-front-proxy"))(t)
		write(t, i.Host.FrontProxyCAFile, slices.Concat(old.CertPEM(), renewed.CertPEM()))
		expectCode(renewed, http.StatusOK)
		cert, key, err := renewed.IssueClient("front-proxy-client")
		kit.Check(t, err)
		before := i.service.accepted()
		write(t, i.Host.FrontProxyKeyFile, key)
		write(t, i.Host.FrontProxyCertFile, cert)
		kit.Eventually(t, "the aggregator has a new connection", func(context.Context) error {
			if slices.Equal(i.service.accepted(), before) {
				return await.ErrNotYet
			}
			return nil
		})
		awaitLoad()
		write(t, i.Host.FrontProxyCAFile, renewed.CertPEM())
		r.publish(t, "requestheader-client-ca-file", renewed.CertPEM())
		expectCode(old, http.StatusUnauthorized)
		expectCode(renewed, http.StatusOK)
		awaitLoad()
		t.Logf("done in %s", time.Since(start).Round(time.Second))
	})

	t.Run("client authority", func(t *testing.T) {
		start := time.Now()
		old, renewed := i.Host.ClientCA, kit.Must(pki.NewCA("new-client-ca"))(t)
		expectCode := func(ca *pki.CA, want int) {
			t.Helper()
			cert, key, err := ca.IssueClient("alice", "leat:admins")
			kit.Check(t, err)
			kit.Eventually(t, fmt.Sprintf("clients of the host get %d", want), answers(withCertificate(atHost, cert, key), want))
			for _, replica := range i.replicas {
				config := r.at(t, replica, ca, "alice", "leat:admins")
				kit.Eventually(t, fmt.Sprintf("clients of the replica get %d", want), answers(config, want))
			}
		}
		write(t, i.Host.ClientCAFile, slices.Concat(old.CertPEM(), renewed.CertPEM()))
		expectCode(renewed, http.StatusOK)
		loads[1].setClient(t, r.at(t, i.replicas[1], renewed, "alice", "leat:admins"), direct)
		cert, key, err := renewed.IssueClient("admin", "system:masters")
		kit.Check(t, err)
		r.admin = kit.Must(kubernetes.NewForConfig(withCertificate(i.Env.HostConfig(t), cert, key)))(t)
		awaitLoad()
		write(t, i.Host.ClientCAFile, renewed.CertPEM())
		r.publish(t, "client-ca-file", renewed.CertPEM())
		expectCode(old, http.StatusUnauthorized)
		expectCode(renewed, http.StatusOK)
		awaitLoad()
		t.Logf("done in %s", time.Since(start).Round(time.Second))
	})

	for n, load := range loads {
		load.stop()
		load.check(t)
		if len(load.failed["write"]) > 0 {
			t.Errorf("failed writes of load %d: got %d, want none", n, len(load.failed["write"]))
		}
	}
	for _, follower := range followers {
		follower.check(t, loads[0].written)
	}

	t.Run("client certificate for etcd", func(t *testing.T) { r.testEtcd(t) })

	for n, process := range processes {
		if process.PID() != pids[n] || process.Err() != nil {
			t.Errorf("%s: the process has restarted or exited: %v", process.LogFile(), process.Err())
		}
	}
}

// testEtcd checks that the servers read their client certificate for etcd at each connection: with one of an unknown CA
// they become unready.
func (r *rotation) testEtcd(t *testing.T) {
	replace := func(ca *pki.CA) {
		t.Helper()
		cert, key, err := ca.IssueClient("leat-apiserver")
		kit.Check(t, err)
		write(t, r.Etcd.KeyFile, key)
		write(t, r.Etcd.CertFile, cert)
		kit.Check(t, r.Etcd.Restart(t.Context()))
	}
	ready := func(replica *kit.Env, want int) {
		t.Helper()
		config := replica.Anonymous(t)
		config.CAData = r.serving
		start := time.Now()
		kit.Eventually(t, fmt.Sprintf("GET /readyz gets %d", want), func(ctx context.Context) error {
			got, err := kit.TryDo(ctx, config, http.MethodGet, "/readyz", "")
			if err == nil && got.Code != want {
				err = errors.New(got.String())
			}
			return err
		})
		t.Logf("GET /readyz gets %d after %s", want, time.Since(start).Round(100*time.Millisecond))
	}
	replace(kit.Must(pki.NewCA("stranger"))(t))
	for _, replica := range r.replicas {
		ready(replica, http.StatusInternalServerError)
	}
	replace(r.Etcd.CA)
	for _, replica := range r.replicas {
		ready(replica, http.StatusOK)
	}
}

// at returns a client of a replica with a certificate of that CA.
func (r *rotation) at(t *testing.T, replica *kit.Env, ca *pki.CA, user string, groups ...string) *rest.Config {
	t.Helper()
	cert, key, err := ca.IssueClient(user, groups...)
	kit.Check(t, err)
	config := withCertificate(replica.Anonymous(t), cert, key)
	config.CAData = r.serving
	return config
}

// publish removes all other CAs from the ConfigMap that the host publishes to extension servers. The host itself only
// adds CAs to it.
func (r *rotation) publish(t *testing.T, key string, authorities []byte) {
	t.Helper()
	client := r.admin.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	kept := 0
	kit.Eventually(t, "the host publishes "+key, func(ctx context.Context) error {
		config, err := client.Get(ctx, "extension-apiserver-authentication", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if bytes.Equal(bytes.TrimSpace([]byte(config.Data[key])), bytes.TrimSpace(authorities)) {
			// The host may still add the old CAs again.
			if kept++; kept > 10 {
				return nil
			}
			return await.ErrNotYet
		}
		kept = 0
		config.Data[key] = string(authorities)
		_, err = client.Update(ctx, config, metav1.UpdateOptions{})
		return errors.Join(await.ErrNotYet, err)
	})
}

// answers returns a condition that is met when a list of tasks gets that code.
func answers(config *rest.Config, want int, headers ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		got, err := kit.TryDo(ctx, config, http.MethodGet, tasksPath("default"), "", headers...)
		if err == nil && got.Code != want {
			err = errors.New(got.String())
		}
		return err
	}
}

// shows returns an error unless a server serves that certificate.
func shows(address string, cert []byte) error {
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return err
	}
	defer conn.Close()
	want, err := certutil.ParseCertsPEM(cert)
	if err != nil {
		return err
	}
	if !conn.ConnectionState().PeerCertificates[0].Equal(want[0]) {
		return await.ErrNotYet
	}
	return nil
}

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	kit.Check(t, pki.WriteFile(file, data))
}
