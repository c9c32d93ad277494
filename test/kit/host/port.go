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

package host

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Ports lie below the node ports of Kubernetes (30000) and the ephemeral ports of the kernel (32768), so that a port stays
// free while the process that uses it restarts.
const firstPort, ports = 20000, 10000

// FreePort returns a TCP port of 127.0.0.1 that nobody listens on. It returns the port to no other caller, in other
// processes too, until this process ends.
func FreePort() (int, error) {
	locks := filepath.Join(os.TempDir(), "leat-host-ports")
	if err := os.MkdirAll(locks, 0o700); err != nil {
		return 0, err
	}
	for range 100 {
		port := firstPort + rand.IntN(ports)
		reserved, err := reserve(filepath.Join(locks, strconv.Itoa(port)))
		if err != nil {
			return 0, err
		}
		if !reserved {
			continue
		}
		listener, err := net.Listen("tcp", address(port))
		if err != nil {
			continue
		}
		return port, listener.Close()
	}
	return 0, fmt.Errorf("100 ports tried at random from %d to %d were all taken", firstPort, firstPort+ports-1)
}

// reserve locks a file until this process ends, and reports whether it could. It leaves the descriptor open on purpose,
// because closing it would release the lock.
func reserve(path string) (bool, error) {
	fd, err := syscall.Open(path, syscall.O_CREAT|syscall.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return false, &os.PathError{Op: "open", Path: path, Err: err}
	}
	switch err := syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB); {
	case err == nil:
		return true, nil
	case errors.Is(err, syscall.EWOULDBLOCK):
		return false, syscall.Close(fd)
	default:
		return false, errors.Join(&os.PathError{Op: "flock", Path: path, Err: err}, syscall.Close(fd))
	}
}

func address(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
