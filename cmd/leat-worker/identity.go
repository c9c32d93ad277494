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
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

const (
	// maxSlots is how many workers with generated names can share a state directory.
	maxSlots = 1000
	// suffixLength is how many random characters make a generated name unique.
	suffixLength = 5
)

// identity is the namespace and the name of the Worker.
type identity struct {
	namespace, name string
	slot            *os.File // whose lock reserves a generated name, or nil
}

// release lets another worker on this machine use the name, if it was generated.
func (i identity) release() {
	if i.slot != nil {
		_ = i.slot.Close()
	}
}

// identify returns the identity of the Worker: that of the flags, of the client certificate, or otherwise a default for
// where it runs.
func (s *settings) identify(config *rest.Config, accessNamespace string) (identity, error) {
	id := identity{namespace: s.namespace, name: s.name}
	certified, err := certificateIdentity(config)
	if err != nil {
		return identity{}, err
	}
	switch {
	case certified == nil:
	case id.namespace != "" && id.namespace != certified.namespace || id.name != "" && id.name != certified.name:
		return identity{}, fmt.Errorf("the client certificate is that of worker %s in namespace %s: "+
			"leave out --name and --namespace, or use another certificate", certified.name, certified.namespace)
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
		id.name, id.slot = generatedName(s.stateDir)
	}
	if messages := apivalidation.NameIsDNSSubdomain(id.name, false); len(messages) > 0 {
		return identity{}, fmt.Errorf("--name=%s: %s", id.name, strings.Join(messages, "; "))
	}
	return id, nil
}

// certificateIdentity returns the identity in the client certificate, nil if there is no certificate or it is not
// that of a worker.
func certificateIdentity(config *rest.Config) (*identity, error) {
	loaded := rest.CopyConfig(config)
	if err := rest.LoadTLSFiles(loaded); err != nil {
		return nil, fmt.Errorf("the client certificate: %w", err)
	}
	if len(loaded.CertData) == 0 {
		return nil, nil
	}
	certificates, err := cert.ParseCertsPEM(loaded.CertData)
	if err != nil {
		return nil, fmt.Errorf("the client certificate: %w", err)
	}
	subject := certificates[0].Subject
	rest, ok := strings.CutPrefix(subject.CommonName, batch.WorkerUserPrefix)
	if !ok || !slices.Contains(subject.Organization, batch.WorkersGroup) {
		return nil, nil
	}
	namespace, name, _ := strings.Cut(rest, ":")
	return &identity{namespace: namespace, name: name}, nil
}

// generatedName returns the name that the worker generated at its first start, and the slot of the directory that keeps
// it. If it cannot be kept, the worker has a new name at each start, and the slot is nil. Workers that run at the same
// time have different names.
func generatedName(dir string) (string, *os.File) {
	name, slot, err := keptName(dir)
	if err != nil {
		klog.Background().Info("Cannot keep the generated name; the worker gets a new one at each start: set --name or --state-dir",
			"err", err)
		return newName(), nil
	}
	return name, slot
}

// keptName returns the name in the first slot of the directory that no running process has locked, and that slot, whose
// lock lasts until it is closed. It generates the name of a new slot.
func keptName(dir string) (string, *os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, err
	}
	for i := range maxSlots {
		slot, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("worker-%d", i)), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return "", nil, err
		}
		if err := unix.Flock(int(slot.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			slot.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				continue
			}
			return "", nil, fmt.Errorf("locking %s: %w", slot.Name(), err)
		}
		content := make([]byte, 256)
		n, _ := slot.ReadAt(content, 0)
		if name := strings.TrimSpace(string(content[:n])); len(apivalidation.NameIsDNSSubdomain(name, false)) == 0 {
			return name, slot, nil
		}
		name := newName()
		_, err = slot.WriteAt([]byte(name+"\n"), 0)
		if err = errors.Join(err, slot.Truncate(int64(len(name)+1)), slot.Sync()); err != nil {
			slot.Close()
			return "", nil, err
		}
		return name, slot, nil
	}
	return "", nil, fmt.Errorf("%d workers use %s already", maxSlots, dir)
}

// newName returns the host name, without characters that a name may not have, and a random suffix.
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

// defaultStateDir returns the state directory of the XDG base directory specification, or one below /var/lib for a user
// without a home directory.
func defaultStateDir() string {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "leat-worker")
	}
	if home, err := os.UserHomeDir(); err == nil && home != "/" {
		return filepath.Join(home, ".local", "state", "leat-worker")
	}
	return "/var/lib/leat-worker"
}
