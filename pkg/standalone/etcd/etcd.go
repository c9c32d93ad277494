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

// Package etcd runs the store of a standalone server: a single-member etcd inside this process that only its user can
// reach.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/klog/v2"
)

const (
	// quotaBytes limits the size of the database. Above it etcd refuses writes. It is the largest size that etcd's
	// maintainers recommend.
	quotaBytes = 8 << 30

	// defragThresholdMegabytes is the free space above which a start defragments the database. There is no etcdctl to
	// do it otherwise.
	defragThresholdMegabytes = 256

	// progressInterval keeps idle watch caches current, so that consistent reads from them do not wait. kubeadm sets
	// the same value.
	progressInterval = 5 * time.Second

	// lockPatience is how long Start waits for another process that is still closing the directory.
	lockPatience = 5 * time.Second

	// peerURL identifies the member in its own data. Nothing listens on it. It must never change: a member whose data
	// has another URL does not start.
	peerURL = "http://127.0.0.1:2380"
)

// Config configures a Server.
type Config struct {
	// DataDir holds all state of the server and nothing else. It is created with mode 0700 if it does not exist.
	// Required.
	DataDir string
}

// Server is a running etcd.
type Server struct {
	etcd      *embed.Etcd
	endpoint  string
	level     zap.AtomicLevel // of etcd's log
	closeOnce sync.Once
	release   []func() // called in reverse order after etcd is closed
}

// Start opens or creates the store in config.DataDir and returns when it serves. Writes are synced to disk before they
// are acknowledged. If another process has the directory open, Start waits a few seconds for it and then returns an
// error.
//
// ctx limits the start only. The Server runs until Close. It does not compact history: the API server's storage does.
func Start(ctx context.Context, config Config) (server *Server, err error) {
	if config.DataDir == "" {
		return nil, errors.New("etcd needs a data directory")
	}
	// The path of the socket becomes part of a URL, so it must be absolute.
	dataDir, err := filepath.Abs(config.DataDir)
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", config.DataDir, err)
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}

	// Suppress the warnings of a regular start.
	s := &Server{level: zap.NewAtomicLevelAt(zap.ErrorLevel)}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	// Lock first: etcd would replace the socket of a running server, and then wait for its database without a limit.
	unlock, err := lock(ctx, dataDir)
	if err != nil {
		return nil, err
	}
	s.release = append(s.release, unlock)
	socket, remove, err := makeSocketDir(dataDir)
	if err != nil {
		return nil, err
	}
	s.release = append(s.release, remove)
	s.endpoint = (&url.URL{Scheme: "unix", Path: socket}).String()

	if s.etcd, err = embed.StartEtcd(embedConfig(dataDir, socket, s.level)); err != nil {
		return nil, fmt.Errorf("starting etcd in %s: %w", dataDir, err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, fmt.Errorf("keeping others from etcd: %w", err)
	}
	select {
	case <-s.etcd.Server.ReadyNotify():
		s.level.SetLevel(zap.WarnLevel)
		return s, nil
	case err := <-s.etcd.Err():
		return nil, fmt.Errorf("starting etcd in %s: %w", dataDir, err)
	case <-ctx.Done():
		return nil, fmt.Errorf("starting etcd in %s: %w", dataDir, context.Cause(ctx))
	}
}

func embedConfig(dataDir, socket string, level zap.AtomicLevel) *embed.Config {
	c := embed.NewConfig()
	c.Name = "leat"
	c.Dir = dataDir
	c.ListenPeerUrls = nil
	c.AdvertisePeerUrls = []url.URL{mustParse(peerURL)}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.ListenClientUrls = []url.URL{{Scheme: "unix", Path: socket}}
	c.AdvertiseClientUrls = c.ListenClientUrls
	c.EnableGRPCGateway = false
	c.QuotaBackendBytes = quotaBytes
	c.BootstrapDefragThresholdMegabytes = defragThresholdMegabytes
	c.WatchProgressNotifyInterval = progressInterval
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(logCore{level: level, logger: klog.Background().WithName("etcd")}))
	return c
}

func mustParse(raw string) url.URL {
	u, err := url.Parse(raw)
	if err != nil {
		panic(err) // a constant
	}
	return *u
}

// Transport returns the configuration with which the API server's storage connects to this server.
func (s *Server) Transport() storagebackend.TransportConfig {
	return storagebackend.TransportConfig{ServerList: []string{s.endpoint}}
}

// Err returns a channel that receives the error of a server that fails, and is closed by Close. After a disk failure
// etcd ends the process instead, because it no longer knows what is stored.
func (s *Server) Err() <-chan error { return s.etcd.Err() }

// Close stops the server and unlocks the data directory. Close clients first: open requests delay Close by up to seven
// seconds and are then aborted. Close may be called more than once.
func (s *Server) Close() {
	s.closeOnce.Do(func() {
		s.level.SetLevel(zap.FatalLevel)
		if s.etcd != nil {
			s.etcd.Close()
		}
		for i := len(s.release) - 1; i >= 0; i-- {
			s.release[i]()
		}
	})
}

// lock makes this process the only user of dataDir. The lock is released when the process ends in any way.
func lock(ctx context.Context, dataDir string) (unlock func(), err error) {
	path := filepath.Join(dataDir, "lock")
	var locked *fileutil.LockedFile
	err = wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, lockPatience, true, func(context.Context) (bool, error) {
		var err error
		locked, err = fileutil.TryLockFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if errors.Is(err, fileutil.ErrLocked) {
			return false, nil
		}
		return err == nil, err
	})
	if wait.Interrupted(err) {
		holder, _ := os.ReadFile(path) // for the message only
		return nil, fmt.Errorf("data directory %s is in use by another process (pid %s): stop that, or use another directory", dataDir, strings.TrimSpace(string(holder)))
	}
	if err != nil {
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	// The runtime closes unreachable files, which would release the lock. The goroutine keeps the file reachable if the
	// caller drops its Server without Close.
	closing, closed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(closed)
		<-closing
		_ = locked.Close()
	}()
	unlock = func() {
		close(closing)
		<-closed
	}
	if err := writePID(locked.File); err != nil {
		unlock()
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	return unlock, nil
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// makeSocketDir returns a path for the socket in a directory that only this user can enter. The directory is below
// dataDir, or a temporary directory if dataDir cannot have sockets: their paths are limited to about a hundred bytes,
// and some shared file systems do not support them.
func makeSocketDir(dataDir string) (socket string, remove func(), err error) {
	dir := filepath.Join(dataDir, "run")
	// An existing directory may be a copy with another mode.
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chmod(dir, 0o700)); err != nil {
		return "", nil, fmt.Errorf("making the socket's directory: %w", err)
	}
	socket, firstErr := trySocket(dir)
	if firstErr == nil {
		return socket, func() {}, nil
	}
	dir, err = os.MkdirTemp("", "leat-etcd-") // 0700
	if err != nil {
		return "", nil, fmt.Errorf("making the socket's directory: %w", errors.Join(firstErr, err))
	}
	remove = func() { _ = os.RemoveAll(dir) }
	if socket, err = trySocket(dir); err != nil {
		remove()
		return "", nil, fmt.Errorf("no place for a unix socket: set TMPDIR to a short path: %w", errors.Join(firstErr, err))
	}
	return socket, remove, nil
}

// trySocket returns the path of a socket in dir. It creates and removes the socket, and returns an error if it cannot.
func trySocket(dir string) (path string, err error) {
	path = filepath.Join(dir, "etcd.sock")
	// A crash leaves the socket behind. Nothing listens on it, because this process holds the lock.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return "", err
	}
	return path, listener.Close()
}
