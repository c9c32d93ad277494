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
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/logs"
	"github.com/leat-dev/leat/pkg/worker/logserver"
)

// logSettings are what the flags say about the output of commands.
type logSettings struct {
	dir               string
	maxSize, maxTotal resource.QuantityValue
	retention         time.Duration
	clientCAFile      string
	address           string
	port              int
}

func (l *logSettings) addFlags(flags *pflag.FlagSet) {
	l.maxSize.Quantity = *resource.NewQuantity(logs.DefaultMaxSize, resource.BinarySI)
	l.maxTotal.Quantity = *resource.NewQuantity(logs.DefaultMaxTotalSize, resource.BinarySI)
	flags.StringVar(&l.dir, "log-dir", "", "Directory where the output of commands is kept, below the worker's namespace and name (default logs in the state directory)")
	flags.Var(&l.maxSize, "log-max-size-per-task", "How much output of one attempt at a task is kept: the last of it")
	flags.Var(&l.maxTotal, "log-max-total-size", "How much output is kept in all: that of attempts that ended first goes first; 0 keeps none")
	flags.DurationVar(&l.retention, "log-retention", logs.DefaultRetention, "How long output is kept after the end of its attempt")
	flags.StringVar(&l.clientCAFile, "client-ca-file", "", "File with the authorities that sign the certificate of the API server, which is named "+batch.WorkerClientName+"; with it the worker serves logs, to that server only")
	flags.StringVar(&l.address, "log-address", os.Getenv("POD_IP"), "IP address to serve logs at, or DNS name to serve them under at all addresses, as the API server reaches it (default $POD_IP, or the address that this machine reaches the API by)")
	flags.IntVar(&l.port, "log-port", 0, "Port to serve logs at; 0 is any free one")
}

func (l *logSettings) validate() error {
	size, total := l.maxSize.Value(), l.maxTotal.Value()
	_, addressErr := netip.ParseAddr(l.address)
	switch {
	case total == 0 && l.clientCAFile != "":
		return errors.New("--client-ca-file: with --log-max-total-size=0 there is nothing to serve: leave out one of the two")
	case total != 0 && size < logs.MinSize:
		return fmt.Errorf("--log-max-size-per-task=%s: must be 16Ki or more", l.maxSize.String())
	case total != 0 && total < size:
		return fmt.Errorf("--log-max-total-size=%s: must be 0, for none, or no less than --log-max-size-per-task=%s", l.maxTotal.String(), l.maxSize.String())
	case l.retention <= 0:
		return fmt.Errorf("--log-retention=%s: must be more than 0", l.retention)
	case l.port < 0 || l.port > 65535:
		return fmt.Errorf("--log-port=%d: must be from 0 to 65535", l.port)
	case l.address != "" && addressErr != nil && len(validation.IsDNS1123Subdomain(l.address)) > 0:
		return fmt.Errorf("--log-address=%s: must be an IP address or a DNS name, without a port", l.address)
	}
	return nil
}

// open opens the store of output, nil if none is kept. Where nobody has said that it must be, it may turn out that it cannot.
func (l *logSettings) open(id identity, stateDir string) (*logs.Store, error) {
	if l.maxTotal.Value() == 0 {
		return nil, nil
	}
	dir := l.dir
	if dir == "" {
		dir = filepath.Join(stateDir, "logs")
	}
	store, err := logs.Open(logs.Options{
		Dir:          filepath.Join(dir, id.namespace, id.name),
		MaxSize:      l.maxSize.Value(),
		MaxTotalSize: l.maxTotal.Value(),
		Retention:    l.retention,
	})
	if err != nil && l.dir == "" && l.clientCAFile == "" {
		klog.Background().Info("No output of commands is kept but the last lines of failures: give --log-dir", "err", err)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("--log-dir=%s: %w", dir, err)
	}
	return store, nil
}

// serve serves what is in the store. There is no server if there is nobody to serve.
func (l *logSettings) serve(store *logs.Store, id identity, config *rest.Config) (*logserver.Server, error) {
	if l.clientCAFile == "" {
		return nil, nil
	}
	host := l.address
	if host == "" {
		var err error
		if host, err = addressTowards(config.Host); err != nil {
			return nil, fmt.Errorf("no address to serve logs at was found: %w: give --log-address", err)
		}
	}
	server, err := logserver.Start(logserver.Options{
		Host: host, Port: l.port, ClientCAFile: l.clientCAFile, Namespace: id.namespace, Logs: store,
	})
	if err != nil {
		return nil, fmt.Errorf("serving logs by --log-address=%s, --log-port=%d and --client-ca-file=%s: %w", host, l.port, l.clientCAFile, err)
	}
	return server, nil
}

// addressTowards is the address of this machine that a connection to the server would come from. Nothing is sent.
func addressTowards(server string) (string, error) {
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	target, err := url.Parse(server)
	if err != nil {
		return "", err
	}
	connection, err := net.Dial("udp", net.JoinHostPort(target.Hostname(), "443"))
	if err != nil {
		return "", err
	}
	defer connection.Close()
	return connection.LocalAddr().(*net.UDPAddr).IP.String(), nil
}
