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

// Package etcd runs the store of a standalone server: a single-member etcd inside
// this process that nobody else can reach.
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
	// quotaBytes bounds the database; beyond it etcd refuses writes until space is
	// made. It is the largest size that etcd's maintainers recommend.
	quotaBytes = 8 << 30

	// defragThresholdMegabytes is how much a start must be able to give back to
	// the file system for it to be worth the time: nobody runs etcdctl here.
	defragThresholdMegabytes = 256

	// progressInterval keeps idle watch caches current, so that reads from them
	// need not wait. It is what kubeadm configures.
	progressInterval = 5 * time.Second

	// lockPatience is how long to wait for a predecessor that is still closing.
	lockPatience = 5 * time.Second

	// peerURL identifies the member in its own data. Nothing listens on it, and it
	// must never change: a member whose data say otherwise does not start.
	peerURL = "http://127.0.0.1:2380"
)

// Config says where a Server lives.
type Config struct {
	// DataDir holds all of its state and nothing else. It is made (0700) if it
	// does not exist. Required.
	DataDir string
}

// Server is a running etcd.
type Server struct {
	etcd      *embed.Etcd
	endpoint  string
	level     zap.AtomicLevel // of what etcd logs
	closeOnce sync.Once
	release   []func() // undoes, last first, what etcd itself does not
}

// Start opens or makes the store in config.DataDir and returns once it serves.
// Writes are synced to disk before they are acknowledged. If another process
// has the directory open, Start waits a few seconds for it and then fails.
//
// ctx limits the start only; the Server runs until Close. History is not
// compacted here: the API server's storage does that.
func Start(ctx context.Context, config Config) (server *Server, err error) {
	if config.DataDir == "" {
		return nil, errors.New("etcd needs a data directory")
	}
	// The path of the socket is part of a URL, which knows no relative ones.
	dataDir, err := filepath.Abs(config.DataDir)
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", config.DataDir, err)
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}

	// A regular start and end are accompanied by warnings that tell nobody anything.
	s := &Server{level: zap.NewAtomicLevelAt(zap.ErrorLevel)}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	// Before anything else: etcd would replace the socket of a running one, and
	// then wait without end for its database.
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

// Transport is how the API server's storage reaches this server.
func (s *Server) Transport() storagebackend.TransportConfig {
	return storagebackend.TransportConfig{ServerList: []string{s.endpoint}}
}

// Err delivers the error that ends service, if one does, and is closed by Close.
// Disk failures are not among them: etcd ends the process on those, since it can
// no longer tell what is stored.
func (s *Server) Err() <-chan error { return s.etcd.Err() }

// Close stops the server and gives up the data directory. Clients should be
// closed before: requests that are still open delay it by up to seven seconds
// and are then cut off. It may be called more than once, but not concurrently
// with requests that must succeed.
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

// lock makes this process the only user of dataDir. The lock ends with the
// process however that ends.
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
		holder, _ := os.ReadFile(path) // only to be helpful
		return nil, fmt.Errorf("data directory %s is in use by another process (pid %s): stop that, or use another directory", dataDir, strings.TrimSpace(string(holder)))
	}
	if err != nil {
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	// Files that nothing refers to are closed, which unlocks them; a caller may
	// well drop its Server and let it run.
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

// makeSocketDir returns a path for the socket, in a directory that only this
// user can enter: below dataDir, or in a temporary directory if sockets cannot
// be there (their paths are limited to about a hundred bytes, and some shared
// file systems have none).
func makeSocketDir(dataDir string) (socket string, remove func(), err error) {
	dir := filepath.Join(dataDir, "run")
	// One that is there may have come with a copy of the data, open to others.
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

// trySocket finds out whether dir can have a socket, by making and removing it.
func trySocket(dir string) (path string, err error) {
	path = filepath.Join(dir, "etcd.sock")
	// Left behind by a crash; nobody listens on it, as we hold the lock.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return "", err
	}
	return path, listener.Close()
}
