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

package etcd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/kubernetes/scheme"
)

// holdDataDir is an environment variable. If it is set, the test binary runs a server in that directory until it is
// killed, and no tests.
const holdDataDir = "LEAT_TEST_HOLD_DATA_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holdDataDir); dir != "" {
		hold(dir)
	}
	os.Exit(m.Run())
}

// hold runs a server in dir, stores an object, prints a line and waits to be killed.
func hold(dir string) {
	server, err := Start(context.Background(), Config{DataDir: dir})
	if err == nil {
		var store storage.Interface
		if store, _, err = connect(server); err == nil {
			err = create(context.Background(), store, "held")
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goruntime.GC() // the server is unreachable now, but must keep the directory locked
	fmt.Println("holding")
	_, _ = io.Copy(io.Discard, os.Stdin) // ends with the parent, should that fail to kill
	os.Exit(0)
}

// connect creates a storage as the API server does.
func connect(server *Server) (storage.Interface, factory.DestroyFunc, error) {
	return factory.Create(*storageConfig(server).ForResource(schema.GroupResource{Resource: "configmaps"}),
		func() runtime.Object { return &corev1.ConfigMap{} },
		func() runtime.Object { return &corev1.ConfigMapList{} }, "/configmaps")
}

func storageConfig(server *Server) *storagebackend.Config {
	json, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeJSON)
	codec := scheme.Codecs.CodecForVersions(json.Serializer, json.Serializer, corev1.SchemeGroupVersion, corev1.SchemeGroupVersion)
	config := storagebackend.NewDefaultConfig("/leat", codec)
	config.Transport = server.Transport()
	return config
}

func create(ctx context.Context, store storage.Interface, name string) error {
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Data: map[string]string{"name": name}}
	return store.Create(ctx, "/configmaps/default/"+name, object, nil, 0)
}

func checkStored(t *testing.T, store storage.Interface, name string) {
	t.Helper()
	var object corev1.ConfigMap
	if err := store.Get(t.Context(), "/configmaps/default/"+name, storage.GetOptions{}, &object); err != nil || object.Data["name"] != name {
		t.Errorf("stored %q: %v, %v", name, object.Data, err)
	}
}

func mustStart(t *testing.T, dir string) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	server, err := Start(ctx, Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server
}

func mustConnect(t *testing.T, server *Server) (storage.Interface, factory.DestroyFunc) {
	t.Helper()
	store, destroy, err := connect(server)
	if err != nil {
		t.Fatal(err)
	}
	return store, destroy
}

func TestAPIServerStorage(t *testing.T) {
	server := mustStart(t, filepath.Join(t.TempDir(), "data"))
	store, destroy := mustConnect(t, server)
	defer destroy()

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	watcher, err := store.Watch(ctx, "/configmaps/", storage.ListOptions{ResourceVersion: "0", Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	if err := create(ctx, store, "a"); err != nil {
		t.Fatal(err)
	}
	checkStored(t, store, "a")
	if event := <-watcher.ResultChan(); event.Type != watch.Added {
		t.Errorf("watch delivers %v, want the addition", event)
	}

	config := storageConfig(server)
	stop := make(chan struct{})
	defer close(stop)
	healthy, err := factory.CreateHealthCheck(*config, stop)
	if err != nil {
		t.Fatal(err)
	}
	if err := wait.PollUntilContextCancel(ctx, 20*time.Millisecond, true, func(context.Context) (bool, error) {
		return healthy() == nil, nil // it connects in the background
	}); err != nil {
		t.Errorf("health: %v", healthy())
	}
	monitor, err := factory.CreateMonitor(*config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = monitor.Close() }()
	if metrics, err := monitor.Monitor(ctx); err != nil || metrics.Size == 0 {
		t.Errorf("database size %d, %v; want some", metrics.Size, err)
	}
}

func TestFilePermissions(t *testing.T) {
	for name, test := range map[string]struct {
		dir       string // below a temporary directory
		temporary bool   // the socket is elsewhere
		open      bool   // its directory is there, and others may enter it
	}{
		"a copy that is open to others": {dir: "data", open: true},
		"short path":                    {dir: "data"},
		"characters with a URL meaning": {dir: "a b%20c?d#e"},
		"path too long for a socket":    {dir: strings.Repeat("long/", 30), temporary: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), test.dir)
			if test.open {
				run := filepath.Join(dir, "run")
				if err := errors.Join(os.MkdirAll(run, 0o700), os.Chmod(run, 0o755)); err != nil {
					t.Fatal(err)
				}
			}
			server := mustStart(t, dir)
			store, destroy := mustConnect(t, server)
			defer destroy()
			if err := create(t.Context(), store, "a"); err != nil {
				t.Fatal(err)
			}

			if len(server.etcd.Peers) != 0 || len(server.etcd.Clients) != 1 || server.etcd.Clients[0].Addr().Network() != "unix" {
				t.Fatalf("listens for peers on %v and for clients on %v; want one unix socket", server.etcd.Peers, server.etcd.Clients)
			}
			socket := server.etcd.Clients[0].Addr().String()
			for _, private := range []string{dir, filepath.Join(dir, "member"), filepath.Dir(socket)} {
				if info, err := os.Stat(private); err != nil || info.Mode() != fs.ModeDir|0o700 {
					t.Errorf("%s: %v, %v; want it private", private, info, err)
				}
			}
			if info, err := os.Stat(socket); err != nil || info.Mode() != fs.ModeSocket|0o600 {
				t.Errorf("%s: %v, %v; want it private", socket, info, err)
			}
			if temporary := !strings.HasPrefix(socket, dir); temporary != test.temporary {
				t.Errorf("socket is at %s", socket)
			}
			destroy()
			server.Close()
			if test.temporary {
				if _, err := os.Stat(filepath.Dir(socket)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("temporary directory %s remains: %v", filepath.Dir(socket), err)
				}
			}
		})
	}
}

func TestDataSurviveRestarts(t *testing.T) {
	dir := t.TempDir()
	for restart := range 3 {
		server := mustStart(t, dir)
		store, destroy := mustConnect(t, server)
		if err := create(t.Context(), store, strconv.Itoa(restart)); err != nil {
			t.Fatal(err)
		}
		for earlier := range restart + 1 {
			checkStored(t, store, strconv.Itoa(earlier))
		}
		destroy()
		server.Close()
		server.Close() // harmless
		if err, open := <-server.Err(); open || err != nil {
			t.Errorf("error after Close: %v", err)
		}
	}
}

func TestAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), holdDataDir+"="+dir)
	child.Stderr = os.Stderr
	if _, err := child.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	output, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Process.Kill() }()
	if line, err := bufio.NewReader(output).ReadString('\n'); line != "holding\n" {
		t.Fatalf("child says %q, %v", line, err)
	}

	t.Run("holds the directory", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := Start(ctx, Config{DataDir: dir})
		if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", child.Process.Pid)) {
			t.Errorf("error %v; want one with the directory and the pid %d", err, child.Process.Pid)
		}
		if _, err := os.Stat(filepath.Join(dir, "run", "etcd.sock")); err != nil {
			t.Errorf("its socket is gone: %v", err)
		}
	})

	t.Run("killed leaves the directory usable and what it stored", func(t *testing.T) {
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait() // the error is that it was killed
		store, destroy := mustConnect(t, mustStart(t, dir))
		defer destroy()
		checkStored(t, store, "held")
	})
}

func TestStartWaitsForClosingPredecessor(t *testing.T) {
	dir := t.TempDir()
	first := mustStart(t, dir)
	started := make(chan error, 1)
	go func() {
		second, err := Start(context.Background(), Config{DataDir: dir})
		if err == nil {
			second.Close()
		}
		started <- err
	}()
	first.Close()
	if err := <-started; err != nil {
		t.Error(err)
	}
}

func TestStartFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		ctx context.Context
		dir string
	}{
		"without a directory":  {t.Context(), ""},
		"on a file":            {t.Context(), file},
		"when nobody wants it": {ended, t.TempDir()},
	} {
		if server, err := Start(test.ctx, Config{DataDir: test.dir}); err == nil {
			server.Close()
			t.Errorf("%s: no error", name)
		}
	}
}
