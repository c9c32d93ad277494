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

package main

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

const (
	// workersGroup and workerPrefix make the identity of a worker in a client certificate: its organization, and what
	// "<namespace>:<name>" follows in its common name.
	workersGroup = "leat:workers"
	workerPrefix = "leat:worker:"
	// slots is how many workers without a name of their own can share a state directory.
	slots = 1000
	// suffixLength is how many random characters make a name unlike those in other namespaces.
	suffixLength = 5
)

// identity is which Worker this is.
type identity struct {
	namespace, name string
}

// identify says which Worker this is: by flags, by the certificate it is known by, and else by where it runs.
func (s *settings) identify(config *rest.Config, accessNamespace string) (identity, error) {
	id := identity{s.namespace, s.name}
	certified, err := certificateIdentity(config)
	if err != nil {
		return identity{}, err
	}
	switch {
	case certified == nil:
	case id.namespace != "" && id.namespace != certified.namespace || id.name != "" && id.name != certified.name:
		return identity{}, fmt.Errorf("the client certificate is that of worker %s in namespace %s: leave out --name and --namespace, or give another certificate",
			certified.name, certified.namespace)
	default:
		id = *certified
	}
	if id.namespace == "" {
		id.namespace = accessNamespace
	}
	if messages := apivalidation.ValidateNamespaceName(id.namespace, false); len(messages) > 0 {
		return identity{}, fmt.Errorf("--namespace=%s: %s", id.namespace, strings.Join(messages, "; "))
	}
	if id.name == "" {
		id.name = os.Getenv("POD_NAME")
	}
	if id.name == "" {
		id.name = ownName(s.stateDir)
	}
	if messages := apivalidation.NameIsDNSSubdomain(id.name, false); len(messages) > 0 {
		return identity{}, fmt.Errorf("--name=%s: %s", id.name, strings.Join(messages, "; "))
	}
	return id, nil
}

// certificateIdentity is which worker the client certificate is one of, nil if there is none or it is another's.
func certificateIdentity(config *rest.Config) (*identity, error) {
	loaded := rest.CopyConfig(config)
	if err := rest.LoadTLSFiles(loaded); err != nil {
		return nil, fmt.Errorf("the client certificate: %w", err)
	}
	block, _ := pem.Decode(loaded.CertData)
	if block == nil {
		return nil, nil
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the client certificate: %w", err)
	}
	rest, ok := strings.CutPrefix(certificate.Subject.CommonName, workerPrefix)
	if !ok || !slices.Contains(certificate.Subject.Organization, workersGroup) {
		return nil, nil
	}
	namespace, name, _ := strings.Cut(rest, ":")
	return &identity{namespace, name}, nil
}

// ownName is the name that this worker has given itself: at its first start, if the directory keeps it. Workers that run at a time
// have different names.
func ownName(dir string) string {
	name, err := keptName(dir)
	if err != nil {
		klog.Background().Info("The worker has another name at each start, since this one cannot be kept: give --name or --state-dir", "err", err)
		return newName()
	}
	return name
}

// keptName is the name in the first slot of the directory that no running process holds. Its lock lasts as long as this process.
func keptName(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	for i := range slots {
		slot, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("worker-%d", i)), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return "", err
		}
		if err := unix.Flock(int(slot.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			slot.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				continue
			}
			return "", fmt.Errorf("locking %s: %w", slot.Name(), err)
		}
		held = append(held, slot)
		content := make([]byte, 256)
		n, _ := slot.ReadAt(content, 0)
		if name := strings.TrimSpace(string(content[:n])); len(apivalidation.NameIsDNSSubdomain(name, false)) == 0 {
			return name, nil
		}
		name := newName()
		_, err = slot.WriteAt([]byte(name+"\n"), 0)
		return name, errors.Join(err, slot.Truncate(int64(len(name)+1)), slot.Sync())
	}
	return "", fmt.Errorf("%d workers use %s already", slots, dir)
}

// held are the slots of this process: a file that is closed is not locked any more.
var held []*os.File

// newName is the name of the host, as far as it fits, and random characters.
func newName() string {
	host, _ := os.Hostname()
	host = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(host))
	host = strings.Trim(host[:min(len(host), 63)], "-")
	if host == "" {
		host = "worker"
	}
	return host + "-" + strings.ToLower(rand.Text()[:suffixLength])
}

// defaultStateDir is where state is kept by the XDG base directory specification, or for who has no home.
func defaultStateDir() string {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "leat-worker")
	}
	if home, err := os.UserHomeDir(); err == nil && home != "/" {
		return filepath.Join(home, ".local", "state", "leat-worker")
	}
	return "/var/lib/leat-worker"
}
