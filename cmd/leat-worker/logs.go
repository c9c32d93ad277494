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

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/logs"
	"github.com/leat-dev/leat/pkg/worker/logserver"
	"github.com/leat-dev/leat/pkg/worker/spool"
)

// echoJSON is the value of --echo that prints lines as JSON.
const echoJSON = "json"

// Values of --archive.
const (
	archiveAuto = "auto"
	archiveOff  = "off"
)

// logSettings are the values of the flags for the output of commands.
type logSettings struct {
	dir               string
	maxSize, maxTotal resource.QuantityValue
	retention         time.Duration
	clientCAFile      string
	address           string
	port              int

	echo                        string
	archive                     string
	maxPerAttempt, maxSpoolSize resource.QuantityValue
}

func (l *logSettings) addFlags(flags *pflag.FlagSet) {
	l.maxSize.Quantity = *resource.NewQuantity(logs.DefaultMaxSize, resource.BinarySI)
	l.maxTotal.Quantity = *resource.NewQuantity(logs.DefaultMaxTotalSize, resource.BinarySI)
	flags.StringVar(&l.dir, "log-dir", "", "Directory for the output of commands, below which the worker uses its namespace and name (default logs in the state directory)")
	flags.Var(&l.maxSize, "log-max-size-per-task", "How much of the output of one attempt at a task is kept, at its end")
	flags.Var(&l.maxTotal, "log-max-total-size", "How much output is kept in total; output of attempts that ended first is removed first; 0 keeps none")
	flags.DurationVar(&l.retention, "log-retention", logs.DefaultRetention, "How long output is kept after the end of its attempt")
	flags.StringVar(&l.clientCAFile, "client-ca-file", "", "File with the certificate authorities of the API server's client certificate, "+
		"which has the name "+batch.WorkerClientName+"; with this file the worker serves logs, to that server only")
	flags.StringVar(&l.address, "log-address", os.Getenv("POD_IP"), "IP address on which to serve logs, or DNS name of this machine to serve "+
		"on all addresses; the API server connects to it (default $POD_IP, or the address from which this machine reaches the API)")
	flags.IntVar(&l.port, "log-port", 0, "Port on which to serve logs; 0 chooses a free one")
	l.maxPerAttempt.Quantity = *resource.NewQuantity(spool.DefaultMaxBytesPerAttempt, resource.BinarySI)
	l.maxSpoolSize.Quantity = *resource.NewQuantity(spool.DefaultMaxSize, resource.BinarySI)
	flags.StringVar(&l.echo, "echo", "", "Set to "+echoJSON+" to print each line of the output of commands on standard output too, as a JSON object with its "+
		"namespace, set, task, index and attempt")
	flags.StringVar(&l.archive, "archive", archiveAuto, "Whether to send the output and the records of finished attempts to the archive of the API server: "+
		archiveAuto+", if it has one, or "+archiveOff)
	flags.Var(&l.maxPerAttempt, "archive-max-bytes-per-attempt", "How much of the output of one attempt goes to the archive, at its end; 0 for records only")
	flags.Var(&l.maxSpoolSize, "archive-max-spool-size", "How much may wait in the state directory to be sent to the archive; if there is more, the oldest is removed")
}

func (l *logSettings) validate() error {
	size, total := l.maxSize.Value(), l.maxTotal.Value()
	_, addressErr := netip.ParseAddr(l.address)
	switch {
	case total == 0 && l.clientCAFile != "":
		return errors.New("--client-ca-file: must not be set with --log-max-total-size=0, when there is nothing to serve")
	case total != 0 && size < logs.MinSize:
		return fmt.Errorf("--log-max-size-per-task=%s: must be 16Ki or more", l.maxSize.String())
	case total != 0 && total < size:
		return fmt.Errorf("--log-max-total-size=%s: must be 0, for none, or no less than --log-max-size-per-task=%s",
			l.maxTotal.String(), l.maxSize.String())
	case l.retention <= 0:
		return fmt.Errorf("--log-retention=%s: must be more than 0", l.retention)
	case l.port < 0 || l.port > 65535:
		return fmt.Errorf("--log-port=%d: must be from 0 to 65535", l.port)
	case l.address != "" && addressErr != nil && len(validation.IsDNS1123Subdomain(l.address)) > 0:
		return fmt.Errorf("--log-address=%s: must be an IP address or a DNS name, without a port", l.address)
	case l.echo != "" && l.echo != echoJSON:
		return fmt.Errorf("--echo=%s: must be %s, or not be set", l.echo, echoJSON)
	case l.archive != archiveAuto && l.archive != archiveOff:
		return fmt.Errorf("--archive=%s: must be %s or %s", l.archive, archiveAuto, archiveOff)
	case l.maxPerAttempt.Value() < 0 || l.maxPerAttempt.Value() > spool.MaxBytesPerAttempt:
		return fmt.Errorf("--archive-max-bytes-per-attempt=%s: must be from 0 to 4Mi", l.maxPerAttempt.String())
	case l.maxSpoolSize.Value() < spool.MinMaxSize:
		return fmt.Errorf("--archive-max-spool-size=%s: must be 16Mi or more; --archive=%s keeps nothing for the archive", l.maxSpoolSize.String(), archiveOff)
	}
	return nil
}

// open opens the store of output. It returns nil if no output is kept, also if the default directory cannot be used
// and no flag needs it.
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
		klog.Background().Info("Cannot keep the output of commands, except the last lines of failures: set --log-dir", "err", err)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("--log-dir=%s: %w", dir, err)
	}
	return store, nil
}

// openSpool opens the spool of what goes to the archive. It returns nil if that is off, or if the directory cannot be
// used: output is then kept in the store of output only.
func (l *logSettings) openSpool(id identity, stateDir string, archiver spool.Archiver, registerer prometheus.Registerer) *spool.Spool {
	if l.archive == archiveOff {
		return nil
	}
	s, err := spool.Open(spool.Options{
		Dir:                filepath.Join(stateDir, "spool", id.namespace, id.name),
		MaxBytesPerAttempt: l.maxPerAttempt.Value(),
		MaxSize:            l.maxSpoolSize.Value(),
		Retention:          l.retention,
		Worker:             id.name,
		Archiver:           archiver,
		Metrics:            spool.NewMetrics(registerer),
	})
	if err != nil {
		klog.Background().Info("Cannot keep output for the archive: set --state-dir", "err", err)
		return nil
	}
	return s
}

// serve starts a server for the store and the spool. It returns nil if no client CA is set.
func (l *logSettings) serve(store *logs.Store, archive *spool.Spool, id identity, config *rest.Config) (*logserver.Server, error) {
	if l.clientCAFile == "" {
		return nil, nil
	}
	host := l.address
	if host == "" {
		var err error
		if host, err = addressTowards(config.Host); err != nil {
			return nil, fmt.Errorf("finding an address to serve logs on: %w: set --log-address", err)
		}
	}
	server, err := logserver.Start(logserver.Options{
		Host: host, Port: l.port, ClientCAFile: l.clientCAFile, Namespace: id.namespace, Logs: store, Archive: archive,
	})
	if err != nil {
		return nil, fmt.Errorf("serving logs with --log-address=%s, --log-port=%d and --client-ca-file=%s: %w",
			host, l.port, l.clientCAFile, err)
	}
	return server, nil
}

// addressTowards returns the local address of a connection to the server. It sends nothing.
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
