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

package chaos

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/faultproxy"
	"github.com/leat-dev/leat/test/kit/host"
)

// store is the etcd of the servers, with one or several members.
type store struct {
	members []*member
	ca      *pki.CA
	caFile  string
	// certFile and keyFile are the credentials of clients.
	certFile, keyFile string
	tls               *tls.Config
	// mu guards horizons, which has the compactions.
	mu       sync.Mutex
	horizons []horizon
}

// member is a member of etcd. It syncs its writes to disk.
type member struct {
	*process
	address string // of clients, 127.0.0.1:<port>
	// peers leads the other members to this one.
	peers *faultproxy.Proxy
	// disk is the file system of its data, or nil where the test cannot mount one.
	disk *disk
}

// diskBytes fits the segments of the log that etcd keeps and preallocates (64 MiB each, at most six), and the data.
const diskBytes = 768 << 20

// startStore starts an etcd of size members until the test ends.
func startStore(t testing.TB, dir string, size int) *store {
	t.Helper()
	ca := kit.Must(pki.NewCA("chaos-etcd"))(t)
	s := &store{ca: ca, caFile: filepath.Join(dir, "ca.crt"), certFile: filepath.Join(dir, "client.crt"), keyFile: filepath.Join(dir, "client.key")}
	write := func(file string, data []byte) { t.Helper(); kit.Check(t, pki.WriteFile(file, data)) }
	write(s.caFile, ca.CertPEM())
	cert, key, err := ca.IssueClient("leat-apiserver")
	kit.Check(t, err)
	write(s.certFile, cert)
	write(s.keyFile, key)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.CertPEM())
	s.tls = &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{kit.Must(tls.X509KeyPair(cert, key))(t)}}
	cert, key, err = ca.IssueServer("127.0.0.1")
	kit.Check(t, err)
	serverCert, serverKey := filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")
	write(serverCert, cert)
	write(serverKey, key)

	program := filepath.Join(kit.Must(host.RepositoryRoot())(t), "bin", "host", "etcd")
	var initial, listen []string
	for i := range size {
		m := &member{address: "127.0.0.1:" + strconv.Itoa(kit.Must(host.FreePort())(t)), peers: faultproxy.New(t)}
		peer := "127.0.0.1:" + strconv.Itoa(kit.Must(host.FreePort())(t))
		m.peers.SetTargets(peer)
		listen = append(listen, "https://"+peer)
		initial = append(initial, fmt.Sprintf("m%d=https://%s", i, m.peers.Address))
		s.members = append(s.members, m)
	}
	// A member exits when its disk is full.
	full := func(err error) bool { return strings.Contains(err.Error(), "no space left on device") }
	var starting sync.WaitGroup
	errs := make([]error, size)
	for i, m := range s.members {
		home := filepath.Join(dir, "m"+strconv.Itoa(i))
		data := filepath.Join(home, "data")
		if i == 0 {
			m.disk = mount(t, filepath.Join(home, "disk"))
			if m.disk != nil {
				data = filepath.Join(m.disk.dir, "data")
			}
		}
		url := "https://" + m.address
		health := &http.Client{Transport: &http.Transport{TLSClientConfig: s.tls, DisableKeepAlives: true}, Timeout: 2 * time.Second}
		starting.Go(func() {
			m.process = &process{name: "member " + strconv.Itoa(i), mayEnd: full}
			m.Process, errs[i] = host.StartProcess(t.Context(), host.Command{
				Name: "etcd", Path: program, Dir: home,
				Args: []string{
					"--name=m" + strconv.Itoa(i), "--data-dir=" + data,
					"--listen-client-urls=" + url, "--advertise-client-urls=" + url,
					"--listen-peer-urls=" + listen[i], "--initial-advertise-peer-urls=https://" + m.peers.Address,
					"--initial-cluster=" + strings.Join(initial, ","),
					"--client-cert-auth", "--trusted-ca-file=" + s.caFile, "--cert-file=" + serverCert, "--key-file=" + serverKey,
					"--peer-client-cert-auth", "--peer-trusted-ca-file=" + s.caFile, "--peer-cert-file=" + serverCert, "--peer-key-file=" + serverKey,
					// The server certificate is not valid for clients, so members use the client certificate for each other.
					"--peer-client-cert-file=" + s.certFile, "--peer-client-key-file=" + s.keyFile,
					"--enable-grpc-gateway=false", "--log-level=warn", "--snapshot-count=20000",
				},
				Ready: func(ctx context.Context) error {
					request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
					if err != nil {
						return err
					}
					response, err := health.Do(request)
					if err != nil {
						return err
					}
					if response.StatusCode != http.StatusOK {
						err = fmt.Errorf("readyz answers %s", response.Status)
					}
					_ = response.Body.Close()
					return err
				},
			})
		})
	}
	starting.Wait()
	for _, err := range errs {
		kit.Check(t, err)
	}
	t.Cleanup(func() {
		for _, m := range s.members {
			kit.Check(t, m.Kill())
		}
	})
	return s
}

// client returns a client of all members, or of the given ones. The caller closes it.
func (s *store) client(members ...*member) (*clientv3.Client, error) {
	if len(members) == 0 {
		members = s.members
	}
	var endpoints []string
	for _, m := range members {
		endpoints = append(endpoints, "https://"+m.address)
	}
	// Keepalives detect frozen members.
	return clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: s.tls, DialTimeout: 5 * time.Second, DialKeepAliveTime: 2 * time.Second, DialKeepAliveTimeout: 2 * time.Second})
}

// compacted records a compaction: servers may answer 410 to revisions before it from now on.
func (s *store) compacted(before int64, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.horizons = append(s.horizons, horizon{before, at})
}

// disk is a file system with the data of a member. It can be filled and frozen.
type disk struct {
	dir, ballast string
}

// mount creates a file system in a file and mounts it until the test ends. It returns nil without the permission to
// mount.
func mount(t testing.TB, dir string) *disk {
	t.Helper()
	kit.Check(t, os.MkdirAll(dir, 0o700))
	image := dir + ".img"
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	kit.Check(t, os.Truncate(image, diskBytes))
	for _, command := range [][]string{{"mkfs.ext4", "-q", "-F", "-m", "0", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Logf("skipping faults of the disk: %v: %v: %s", command, err, out)
			return nil
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return &disk{dir: dir, ballast: filepath.Join(dir, "ballast")}
}

// fill fills the disk.
func (d *disk) fill() error {
	// Smaller files fill what the larger ones left.
	for size := int64(diskBytes); size >= 4096; size /= 2 {
		for n := 0; ; n++ {
			file := fmt.Sprintf("%s-%d-%d", d.ballast, size, n)
			if err := exec.Command("fallocate", "--length="+strconv.FormatInt(size, 10), file).Run(); err != nil {
				_ = os.Remove(file)
				break
			}
		}
	}
	return nil
}

// free removes the files of fill.
func (d *disk) free() error {
	files, err := filepath.Glob(d.ballast + "*")
	for _, file := range files {
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return err
}

// stutter freezes the disk several times for a while. A single command does it, so that the disk is not left frozen
// when this process is killed.
func (d *disk) stutter(stop, run time.Duration, times int) error {
	script := fmt.Sprintf(`for i in $(seq %d); do fsfreeze --freeze "$0" && sleep %.3f; fsfreeze --unfreeze "$0"; sleep %.3f; done`, times, stop.Seconds(), run.Seconds())
	out, err := exec.Command("sh", "-c", script, d.dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("fsfreeze: %w: %s", err, out)
	}
	return nil
}
