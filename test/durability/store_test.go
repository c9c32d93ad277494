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

package durability

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// store is an etcd of one or more members.
type store struct {
	members                   []*member
	caFile, certFile, keyFile string
	// token distinguishes the cluster from others, and from its state before a restore.
	token string
}

type member struct {
	*host.Process
	name, endpoint, peer, dataDir string
}

// storeOf returns the etcd of an environment as a store.
func storeOf(t testing.TB, etcd *host.Etcd) *store {
	t.Helper()
	s := &store{caFile: etcd.CAFile, certFile: etcd.CertFile, keyFile: etcd.KeyFile, token: "etcd-cluster"}
	client := kit.Must(etcd.Client())(t)
	defer client.Close()
	list := kit.Must(client.MemberList(t.Context()))(t)
	s.members = []*member{{
		Process: etcd.Process, name: list.Members[0].Name, endpoint: etcd.Endpoint, peer: list.Members[0].PeerURLs[0],
		dataDir: filepath.Join(filepath.Dir(etcd.LogFile()), "etcd-data"),
	}}
	return s
}

// startStore starts an etcd with n members until the test ends. The arguments are for etcd.
func startStore(t testing.TB, n int, args ...string) *store {
	t.Helper()
	return startStoreAs(t, n, func(command host.Command) host.Command { return command }, args...)
}

// startStoreAs is startStore with the commands of the members changed.
func startStoreAs(t testing.TB, n int, change func(host.Command) host.Command, args ...string) *store {
	t.Helper()
	dir := kit.Must(os.MkdirTemp(t.ArtifactDir(), "etcd-"))(t)
	ca := kit.Must(pki.NewCA("etcd"))(t)
	serverCert, serverKey, err := ca.IssueServer("127.0.0.1", "localhost")
	kit.Check(t, err)
	clientCert, clientKey, err := ca.IssueClient("leat-test")
	kit.Check(t, err)
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, "pki", name)
		kit.Check(t, pki.WriteFile(path, content))
		return path
	}
	s := &store{token: "leat", caFile: file("ca.crt", ca.CertPEM()), certFile: file("client.crt", clientCert), keyFile: file("client.key", clientKey)}
	certFile, keyFile := file("server.crt", serverCert), file("server.key", serverKey)
	address := func() string { return "https://127.0.0.1:" + strconv.Itoa(kit.Must(host.FreePort())(t)) }
	for i := range n {
		name := "leat-etcd-" + strconv.Itoa(i)
		s.members = append(s.members, &member{name: name, endpoint: address(), peer: address(), dataDir: filepath.Join(dir, name, "data")})
	}
	// Members become ready together.
	var starts errgroup.Group
	for _, m := range s.members {
		all := append([]string{
			"--name=" + m.name, "--data-dir=" + m.dataDir, "--initial-cluster=" + s.initialCluster(), "--initial-cluster-token=" + s.token,
			"--listen-client-urls=" + m.endpoint, "--advertise-client-urls=" + m.endpoint,
			"--listen-peer-urls=" + m.peer, "--initial-advertise-peer-urls=" + m.peer,
			"--client-cert-auth", "--trusted-ca-file=" + s.caFile, "--cert-file=" + certFile, "--key-file=" + keyFile,
			"--peer-trusted-ca-file=" + s.caFile, "--peer-cert-file=" + certFile, "--peer-key-file=" + keyFile,
			"--peer-client-cert-file=" + s.certFile, "--peer-client-key-file=" + s.keyFile,
			"--enable-grpc-gateway=false", "--log-level=warn",
		}, args...)
		command := change(host.Command{
			Name: m.name, Path: tool(t, "etcd"), Args: all, Dir: filepath.Join(dir, m.name),
			Ready: func(ctx context.Context) error { return s.ready(ctx, m) },
		})
		starts.Go(func() (err error) {
			m.Process, err = host.StartProcess(t.Context(), command)
			return err
		})
	}
	kit.Check(t, starts.Wait())
	t.Cleanup(func() {
		for _, m := range s.members {
			kit.Check(t, errors.Join(m.Err(), m.Kill()))
		}
	})
	return s
}

func tool(t testing.TB, name string) string {
	t.Helper()
	return filepath.Join(kit.Must(host.RepositoryRoot())(t), "bin", "host", name)
}

// endpoints returns the endpoints of the members, or of all members by default.
func (s *store) endpoints(members ...*member) []string {
	if len(members) == 0 {
		members = s.members
	}
	var all []string
	for _, m := range members {
		all = append(all, m.endpoint)
	}
	return all
}

func (s *store) initialCluster() string {
	var all []string
	for _, m := range s.members {
		all = append(all, m.name+"="+m.peer)
	}
	return strings.Join(all, ",")
}

// connect returns a client of the members, or of all members by default.
func (s *store) connect(members ...*member) (*clientv3.Client, error) {
	pair, err := tls.LoadX509KeyPair(s.certFile, s.keyFile)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(s.caFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return clientv3.New(clientv3.Config{Endpoints: s.endpoints(members...), TLS: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}})
}

// client returns a client of all members until the test ends.
func (s *store) client(t testing.TB) *clientv3.Client {
	t.Helper()
	client := kit.Must(s.connect())(t)
	t.Cleanup(func() { kit.Check(t, client.Close()) })
	return client
}

// ready returns an error unless the member serves reads, for which it needs a leader.
func (s *store) ready(ctx context.Context, m *member) error {
	client, err := s.connect(m)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.Get(ctx, "ready", clientv3.WithCountOnly())
	return err
}

// etcdctl runs etcdctl for the members, or for all members by default, and returns its output.
func (s *store) etcdctl(t testing.TB, args []string, members ...*member) string {
	t.Helper()
	return runTool(t, []string{
		"ETCDCTL_ENDPOINTS=" + strings.Join(s.endpoints(members...), ","),
		"ETCDCTL_CACERT=" + s.caFile, "ETCDCTL_CERT=" + s.certFile, "ETCDCTL_KEY=" + s.keyFile,
	}, "etcdctl", args...)
}

// save takes a snapshot from a member and returns its file.
func (s *store) save(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "snapshot.db")
	s.etcdctl(t, []string{"snapshot", "save", file}, s.members[0])
	return file
}

// bumpFlags are the flags that a restore needs: with them, resourceVersions never decrease and watches start again.
var bumpFlags = []string{"--bump-revision=1000000000", "--mark-compacted"}

// restore stops all members, restores the snapshot on each, and starts them. It keeps the former data in another
// directory.
func (s *store) restore(t testing.TB, snapshot string, flags ...string) {
	t.Helper()
	for _, m := range s.members {
		kit.Check(t, m.Stop())
	}
	s.token += "-restored"
	for _, m := range s.members {
		kit.Check(t, os.Rename(m.dataDir, m.dataDir+"-before-"+s.token))
		runTool(t, nil, "etcdutl", append([]string{
			"snapshot", "restore", snapshot, "--data-dir=" + m.dataDir,
			"--name=" + m.name, "--initial-cluster=" + s.initialCluster(), "--initial-cluster-token=" + s.token, "--initial-advertise-peer-urls=" + m.peer,
		}, flags...)...)
	}
	s.restart(t, s.members...)
}

// restart starts members side by side: without a majority, none becomes ready.
func (s *store) restart(t testing.TB, members ...*member) {
	t.Helper()
	var starts errgroup.Group
	for _, m := range members {
		starts.Go(func() error { return m.Restart(t.Context()) })
	}
	kit.Check(t, starts.Wait())
}

// runTool runs a program of bin/host and returns its output.
func runTool(t testing.TB, environment []string, name string, args ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), tool(t, name), args...)
	command.Env = append(os.Environ(), environment...)
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatal(fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out))
	}
	return string(out)
}
