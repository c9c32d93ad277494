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

// Package logserver serves the output and the records of commands to the API server only, over mutual TLS.
package logserver

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/scheme"
	"github.com/leat-dev/leat/pkg/worker/logs"
	"github.com/leat-dev/leat/pkg/worker/spool"
)

const (
	// lifetime is how long the certificate is valid. Its key exists only in the memory of this process.
	lifetime = 10 * 365 * 24 * time.Hour
	// clockSkew is how far the clock of the API server may be behind.
	clockSkew = time.Hour
	// closeTimeout is how long Close waits for readers to reach the end of the output.
	closeTimeout = time.Second
)

// Options configure a Server.
type Options struct {
	// Host is the address with which the API server reaches this machine. The server listens on it if it is an IP
	// address, and on all addresses if it is a DNS name.
	Host string
	// Port is the TCP port to listen on; 0 chooses a free one.
	Port int
	// ClientCAFile is a file with PEM certificates of the authorities that may have signed the certificate of the API
	// server. It is read for each connection.
	ClientCAFile string
	// Namespace is the namespace of the worker.
	Namespace string
	// Logs is the store to serve.
	Logs *logs.Store
	// Archive has the finished attempts to serve that are not in the archive yet; it may be nil.
	Archive *spool.Spool

	// maxRecords is maxRecords, less in tests.
	maxRecords int
}

// Server serves the logs of one worker. A nil Server serves nothing.
type Server struct {
	options  Options
	endpoint batch.WorkerEndpoint
	server   *http.Server
}

// Start starts a server, which runs until Close.
func Start(options Options) (*Server, error) {
	if _, err := readPool(options.ClientCAFile); err != nil {
		return nil, err
	}
	certificate, bundle, err := selfSigned()
	if err != nil {
		return nil, err
	}
	listenOn := ""
	if _, err := netip.ParseAddr(options.Host); err == nil {
		listenOn = options.Host
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(listenOn, strconv.Itoa(options.Port)))
	if err != nil {
		return nil, err
	}
	options.maxRecords = cmp.Or(options.maxRecords, maxRecords)
	s := &Server{options: options, endpoint: batch.WorkerEndpoint{
		Host: options.Host, Port: int32(listener.Addr().(*net.TCPAddr).Port), CABundle: bundle,
	}}
	mux := http.NewServeMux()
	mux.HandleFunc(batch.WorkerLogPattern, s.serve)
	mux.HandleFunc(batch.WorkerRecordsPattern, s.serveRecords)
	mux.HandleFunc(batch.WorkerOutputPattern, s.serveOutput)
	s.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       10 * time.Second,
		MaxHeaderBytes:    16 << 10,
		TLSConfig:         tlsConfig(certificate, options.ClientCAFile),
		ErrorLog:          log.New(connectionLog{}, "", 0),
	}
	go func() {
		if err := s.server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			klog.Background().Error(err, "Failed to serve logs")
		}
	}()
	return s, nil
}

// Endpoint returns the endpoint that the worker publishes.
func (s *Server) Endpoint() *batch.WorkerEndpoint {
	if s == nil {
		return nil
	}
	return s.endpoint.DeepCopy()
}

// Close stops the server. Readers of ended output have closeTimeout to reach its end.
func (s *Server) Close() {
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if s.server.Shutdown(ctx) != nil {
		_ = s.server.Close()
	}
}

// connectionLog logs the errors of http.Server at a higher verbosity: a refused client is not an error of this server.
type connectionLog struct{}

func (connectionLog) Write(p []byte) (int, error) {
	klog.Background().V(2).Info("Refused a connection for logs", "message", string(p))
	return len(p), nil
}

// tlsConfig returns a configuration that accepts only the client certificate of the API server.
func tlsConfig(certificate tls.Certificate, clientCAFile string) *tls.Config {
	base := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{certificate},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		// With HTTP/1.1 each reader has its own connection, which ends with it.
		NextProtos: []string{"http/1.1"},
		VerifyConnection: func(state tls.ConnectionState) error {
			if name := state.PeerCertificates[0].Subject.CommonName; name != batch.WorkerClientName {
				return fmt.Errorf("the client certificate is %q's: logs are served to %s only", name, batch.WorkerClientName)
			}
			return nil
		},
	}
	outer := base.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		pool, err := readPool(clientCAFile)
		if err != nil {
			return nil, err
		}
		config := base.Clone()
		config.ClientCAs = pool
		return config, nil
	}
	return outer
}

func readPool(file string) (*x509.CertPool, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("the authorities of clients: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("the authorities of clients: %s holds no certificate in PEM", file)
	}
	return pool, nil
}

// selfSigned returns a self-signed certificate, and the bundle to verify it with.
func selfSigned() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: batch.WorkerServerName},
		DNSNames:     []string{batch.WorkerServerName},
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(lifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, bundle, nil
}

// checkNamespace reports whether the request is about the namespace of the worker. If not, it responds with an error.
func (s *Server) checkNamespace(w http.ResponseWriter, r *http.Request) bool {
	namespace := r.PathValue("namespace")
	if namespace != s.options.Namespace {
		http.Error(w, fmt.Sprintf("the worker runs the tasks of namespace %s, not those of %s", s.options.Namespace, namespace),
			http.StatusNotFound)
	}
	return namespace == s.options.Namespace
}

// serve serves the output of a task. After an error in the middle of the response it aborts the connection.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	options, err := readOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !s.checkNamespace(w, r) {
		return
	}
	read, err := readOptionsOf(options)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	out := &response{ResponseWriter: w}
	task := types.UID(r.PathValue("uid"))
	read.Finished = func(ctx context.Context) ([]logs.Finished, error) { return s.finished(ctx, task) }
	err = s.options.Logs.ReadTask(r.Context(), task, out, out.flush, read)
	notKept := (*logs.NotKeptError)(nil)
	switch {
	case err == nil || r.Context().Err() != nil:
	case out.started:
		klog.FromContext(r.Context()).V(2).Info("Aborted a response with a log",
			"task", klog.KRef(s.options.Namespace, r.PathValue("name")), "err", err)
		panic(http.ErrAbortHandler)
	case errors.Is(err, logs.ErrRemoved), errors.As(err, &notKept):
		http.Error(w, err.Error(), http.StatusNotFound)
	default:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// response records whether it has started.
type response struct {
	http.ResponseWriter
	started bool
}

var _ io.Writer = &response{}

// Write implements io.Writer.
func (r *response) Write(p []byte) (int, error) {
	r.started = true
	return r.ResponseWriter.Write(p)
}

func (r *response) flush() {
	r.started = true
	r.ResponseWriter.(http.Flusher).Flush()
}

// readOptions decodes and validates the query of a request as the API does.
func readOptions(r *http.Request) (*batch.TaskLogOptions, error) {
	options := &batch.TaskLogOptions{}
	if err := scheme.ParameterCodec.DecodeParameters(r.URL.Query(), batch.SchemeGroupVersion, options); err != nil {
		return nil, err
	}
	create := operation.Operation{Type: operation.Create}
	return options, batch.Validate_TaskLogOptions(r.Context(), create, nil, options, nil).ToAggregate()
}

// readOptionsOf returns the options for the store.
func readOptionsOf(options *batch.TaskLogOptions) (logs.TaskReadOptions, error) {
	read := logs.TaskReadOptions{
		ReadOptions: logs.ReadOptions{
			Follow:     options.Follow,
			Timestamps: options.Timestamps,
			TailLines:  options.TailLines,
			LimitBytes: options.LimitBytes,
		},
		Previous: options.Previous,
		Prefix:   options.Prefix,
	}
	if options.Indexes != "" {
		ranges, err := indexes.Parse(options.Indexes, math.MaxInt32)
		if err != nil {
			return read, fmt.Errorf("indexes: %w", err)
		}
		read.Indexes = ranges
	}
	switch {
	case options.SinceSeconds != nil:
		now := time.Now()
		read.Since = now.Add(-time.Duration(min(*options.SinceSeconds, now.Unix())) * time.Second)
	case options.SinceTime != nil:
		read.Since = options.SinceTime.Time
	}
	return read, nil
}
