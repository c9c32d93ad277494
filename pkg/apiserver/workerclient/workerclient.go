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

// Package workerclient reads logs from workers, at addresses that workers have published themselves: whoever can write a Worker
// chooses where the server connects to. So only addresses where workers may be are dialled, checked once their names have
// been resolved; nothing but a handshake is sent to a host that does not hold the key that goes with the Worker; and where an
// answer says to go next is not followed.
package workerclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/conversion/queryparams"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
)

const (
	// dialTimeout bounds the connection, and answerTimeout all until an answer begins. How long it goes on is the client's business.
	dialTimeout   = 5 * time.Second
	answerTimeout = 15 * time.Second
	// maxMessage is how much of an error's message is read, in bytes.
	maxMessage = 1 << 10
)

// Options say how workers are reached.
type Options struct {
	// CertFile and KeyFile are the client certificate that workers know the server by: its common name must be
	// v1alpha1.WorkerClientName. They are read anew for each connection. Without them no logs are read.
	CertFile, KeyFile string
	// AddressRanges are where workers may be, as ParseRanges reads them.
	AddressRanges []string
}

// AddFlags adds the options' flags.
func (o *Options) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.CertFile, "worker-client-certificate", o.CertFile,
		"File with the client certificate for "+v1alpha1.WorkerClientName+", which workers know the server by when it reads logs from them. Without it no logs are read.")
	flags.StringVar(&o.KeyFile, "worker-client-key", o.KeyFile, "File with the key of the --worker-client-certificate.")
	flags.StringSliceVar(&o.AddressRanges, "worker-address-ranges", o.AddressRanges,
		"Ranges of addresses, like 10.0.0.0/8, where the server may connect to workers to read logs. By default all but those that mean the server's own "+
			"machine or link; these must be named by a range of their own.")
}

// Validate tells all that is wrong with the options.
func (o *Options) Validate() []error {
	var errs []error
	if (o.CertFile == "") != (o.KeyFile == "") {
		errs = append(errs, errors.New("--worker-client-certificate and --worker-client-key: give both or none"))
	}
	if _, err := ParseRanges(o.AddressRanges); err != nil {
		errs = append(errs, fmt.Errorf("--worker-address-ranges: %w", err))
	}
	return errs
}

// Client reads logs from workers. It is safe for concurrent use.
type Client struct {
	certFile, keyFile string
	ranges            Ranges
	answerTimeout     time.Duration
	// resolver is nil but in tests: that of the system.
	resolver *net.Resolver
}

// New makes a client from the options. Without a certificate it is one that says so whenever it is used.
func (o *Options) New() (*Client, error) {
	ranges, err := ParseRanges(o.AddressRanges)
	if err != nil {
		return nil, err
	}
	c := &Client{certFile: o.CertFile, keyFile: o.KeyFile, ranges: ranges, answerTimeout: answerTimeout}
	if o.CertFile == "" {
		return c, nil
	}
	certificate, err := c.certificate()
	if err != nil {
		return nil, err
	}
	if name := certificate.Leaf.Subject.CommonName; name != v1alpha1.WorkerClientName {
		return nil, fmt.Errorf("--worker-client-certificate: the common name is %q: workers serve %s only", name, v1alpha1.WorkerClientName)
	}
	return c, nil
}

func (c *Client) certificate() (*tls.Certificate, error) {
	certificate, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return nil, fmt.Errorf("--worker-client-certificate: %w", err)
	}
	return &certificate, nil
}

// OpenLog implements task.LogSource. The stream ends with ctx.
func (c *Client) OpenLog(ctx context.Context, t *batch.Task, endpoint *batch.WorkerEndpoint, options *batch.TaskLogOptions) (io.ReadCloser, error) {
	if c.certFile == "" {
		return nil, errors.New("the API server has no certificate for workers: start it with --worker-client-certificate and --worker-client-key")
	}
	request, err := newRequest(ctx, t, endpoint, options)
	if err != nil {
		return nil, err
	}
	transport, err := c.transport(endpoint)
	if err != nil {
		return nil, err
	}
	// Without a client around it, a transport follows nothing.
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusOK {
		return response.Body, nil
	}
	defer response.Body.Close()
	content, _ := io.ReadAll(io.LimitReader(response.Body, maxMessage))
	message := strings.ToValidUTF8(strings.TrimSpace(string(content)), "\uFFFD")
	if response.StatusCode == http.StatusNotFound {
		return nil, &task.LogNotKeptError{Message: message}
	}
	return nil, fmt.Errorf("it answered %d: %s", response.StatusCode, message)
}

func newRequest(ctx context.Context, t *batch.Task, endpoint *batch.WorkerEndpoint, options *batch.TaskLogOptions) (*http.Request, error) {
	versioned := &v1alpha1.TaskLogOptions{}
	if err := v1alpha1.Convert_batch_TaskLogOptions_To_v1alpha1_TaskLogOptions(options, versioned, nil); err != nil {
		return nil, err
	}
	query, err := queryparams.Convert(versioned)
	if err != nil {
		return nil, err
	}
	path := v1alpha1.WorkerLogPath(t.Namespace, t.Name, t.UID)
	target := &url.URL{Scheme: "https", Host: net.JoinHostPort(endpoint.Host, strconv.Itoa(int(endpoint.Port))), RawQuery: query.Encode()}
	return http.NewRequestWithContext(ctx, http.MethodGet, target.JoinPath(path).String(), nil)
}

// transport makes one connection, to nobody but the owner of the certificate in the endpoint. No other request goes over it: a
// connection that is kept would answer for whoever publishes its address next.
func (c *Client) transport(endpoint *batch.WorkerEndpoint) (*http.Transport, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(endpoint.CABundle) {
		return nil, errors.New("status.endpoint.caBundle of the worker holds no certificate in PEM")
	}
	dialer := &net.Dialer{Timeout: dialTimeout, Control: c.control, Resolver: c.resolver}
	return &http.Transport{
		DialContext: dialer.DialContext,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS13,
			ServerName: v1alpha1.WorkerServerName,
			RootCAs:    pool,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return c.certificate()
			},
		},
		TLSHandshakeTimeout:    dialTimeout,
		ResponseHeaderTimeout:  c.answerTimeout,
		MaxResponseHeaderBytes: 16 << 10,
		DisableKeepAlives:      true,
		DisableCompression:     true,
	}, nil
}

// control is asked before each connection, with the address that names have been resolved to by then.
func (c *Client) control(_, address string, _ syscall.RawConn) error {
	resolved, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return c.ranges.Check(resolved.Addr())
}
