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

// Package workerlogs reads logs from workers. Workers publish their addresses themselves, so any user that can write
// a Worker chooses where the server connects to. To prevent server-side request forgery, the client dials only allowed
// addresses, checked after name resolution; completes the TLS handshake only with the holder of the key of the Worker's
// certificate; and follows no redirects.
package workerlogs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
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
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
)

const (
	// dialTimeout bounds the connection.
	dialTimeout = 5 * time.Second
	// responseTimeout bounds the time to the response headers. The body, which may be followed, has no timeout.
	responseTimeout = 15 * time.Second
	// maxMessageSize is the number of bytes that are read of an error message.
	maxMessageSize = 1 << 10
	// maxRecordsSize is the maximum size of a list of records in JSON, in bytes.
	maxRecordsSize = 8 << 20
)

// Options configure the connections to workers.
type Options struct {
	// CertFile and KeyFile name the files of the client certificate, whose common name must be
	// v1alpha1.WorkerClientName. They are read for each connection. Without them the server serves no logs.
	CertFile, KeyFile string
	// AddressRanges are the allowed address ranges of workers, in the syntax of ParseRanges.
	AddressRanges []string
}

// AddFlags adds the flags of the options.
func (o *Options) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.CertFile, "worker-client-certificate", o.CertFile,
		"File with the client certificate for "+v1alpha1.WorkerClientName+", which workers know the server by when it reads logs from them. Without it no logs are read.")
	flags.StringVar(&o.KeyFile, "worker-client-key", o.KeyFile, "File with the key of the --worker-client-certificate.")
	flags.StringSliceVar(&o.AddressRanges, "worker-address-ranges", o.AddressRanges,
		"Ranges of addresses, like 10.0.0.0/8, where the server may connect to workers to read logs. By default all but those that mean the server's own "+
			"machine or link; these must be named by a range of their own.")
}

// Validate returns the errors in the options.
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
	responseTimeout   time.Duration
	// resolver is the resolver to use in tests. Nil means the system's.
	resolver *net.Resolver
}

// New returns a client. Without a certificate in the options, the client returns an error whenever it is used.
func (o *Options) New() (*Client, error) {
	ranges, err := ParseRanges(o.AddressRanges)
	if err != nil {
		return nil, err
	}
	c := &Client{certFile: o.CertFile, keyFile: o.KeyFile, ranges: ranges, responseTimeout: responseTimeout}
	if o.CertFile == "" {
		return c, nil
	}
	certificate, err := c.certificate()
	if err != nil {
		return nil, err
	}
	if name := certificate.Leaf.Subject.CommonName; name != v1alpha1.WorkerClientName {
		return nil, fmt.Errorf("--worker-client-certificate: the common name is %q and must be %s", name, v1alpha1.WorkerClientName)
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

// OpenLog implements task.LogSource.
func (c *Client) OpenLog(ctx context.Context, t *batch.Task, endpoint *batch.WorkerEndpoint, options *batch.TaskLogOptions) (io.ReadCloser, error) {
	versioned := &v1alpha1.TaskLogOptions{}
	if err := v1alpha1.Convert_batch_TaskLogOptions_To_v1alpha1_TaskLogOptions(options, versioned, nil); err != nil {
		return nil, err
	}
	query, err := queryparams.Convert(versioned)
	if err != nil {
		return nil, err
	}
	return c.get(ctx, endpoint, v1alpha1.WorkerLogPath(t.Namespace, t.Name, t.UID), query)
}

// Records returns the records of the attempts of a set that the worker has not sent to the archive, nil if it has none.
// If set is empty, they are of tasks without one. If indexes is not empty, they are of these indexes, and if taskUID is
// not empty, of that task. If there are more, the list has metadata.continue, which is from of the next call.
func (c *Client) Records(ctx context.Context, endpoint *batch.WorkerEndpoint, namespace string, set types.UID, indexes string,
	taskUID types.UID, from string) (*v1alpha1.TaskRecordList, error) {
	query := url.Values{}
	for name, value := range map[string]string{"indexes": indexes, "taskUID": string(taskUID), "continue": from} {
		if value != "" {
			query.Set(name, value)
		}
	}
	content, err := c.read(ctx, endpoint, v1alpha1.WorkerRecordsPath(namespace, set), query, maxRecordsSize)
	var notKept *task.LogNotKeptError
	if err != nil {
		if errors.As(err, &notKept) {
			return nil, nil // of the set, or of any: the worker may keep none
		}
		return nil, err
	}
	list := &v1alpha1.TaskRecordList{}
	if err := json.Unmarshal(content, list); err != nil {
		return nil, fmt.Errorf("the worker responded with what is not a TaskRecordList: %w", err)
	}
	return list, nil
}

// Output returns the output of an attempt that the worker has not sent to the archive. It returns a
// task.LogNotKeptError if the worker does not have it.
func (c *Client) Output(ctx context.Context, endpoint *batch.WorkerEndpoint, namespace string, set types.UID, entry string, maxSize int64) ([]byte, error) {
	return c.read(ctx, endpoint, v1alpha1.WorkerOutputPath(namespace, set, entry), nil, maxSize)
}

// read returns the response of a worker, which must not be longer than maxSize.
func (c *Client) read(ctx context.Context, endpoint *batch.WorkerEndpoint, path string, query url.Values, maxSize int64) ([]byte, error) {
	body, err := c.get(ctx, endpoint, path, query)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	content, err := io.ReadAll(io.LimitReader(body, maxSize+1))
	if err == nil && int64(len(content)) > maxSize {
		err = fmt.Errorf("the worker responded with more than %d bytes", maxSize)
	}
	return content, err
}

// get opens the response of the worker to a GET request. It returns a task.LogNotKeptError if the worker responds that
// there is nothing at that path.
func (c *Client) get(ctx context.Context, endpoint *batch.WorkerEndpoint, path string, query url.Values) (io.ReadCloser, error) {
	if c.certFile == "" {
		return nil, errors.New("the API server has no certificate for workers: start it with --worker-client-certificate and --worker-client-key")
	}
	target := &url.URL{Scheme: "https", Host: net.JoinHostPort(endpoint.Host, strconv.Itoa(int(endpoint.Port))), RawQuery: query.Encode()}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.JoinPath(path).String(), nil)
	if err != nil {
		return nil, err
	}
	transport, err := c.transport(endpoint)
	if err != nil {
		return nil, err
	}
	// Use the transport directly: an http.Client would follow redirects.
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusOK {
		return response.Body, nil
	}
	defer response.Body.Close()
	content, _ := io.ReadAll(io.LimitReader(response.Body, maxMessageSize))
	message := strings.ToValidUTF8(strings.TrimSpace(string(content)), "\uFFFD")
	if response.StatusCode == http.StatusNotFound {
		return nil, &task.LogNotKeptError{Message: message}
	}
	return nil, fmt.Errorf("the worker responded with status %d: %s", response.StatusCode, message)
}

// transport returns a transport for one connection, which must present the certificate of the endpoint. Connections are
// not reused: a Worker that publishes the same address later may have another certificate.
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
		ResponseHeaderTimeout:  c.responseTimeout,
		MaxResponseHeaderBytes: 16 << 10,
		DisableKeepAlives:      true,
		DisableCompression:     true,
	}, nil
}

// control checks the resolved address before each connection.
func (c *Client) control(_, address string, _ syscall.RawConn) error {
	resolved, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return c.ranges.Check(resolved.Addr())
}
