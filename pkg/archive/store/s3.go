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

package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
	"k8s.io/klog/v2"
)

const (
	// operationTimeout limits one call, with all its requests. It is that of requests to leat-apiserver.
	operationTimeout = time.Minute
	dialTimeout      = 10 * time.Second
	// maxIdleConnections is the number of open connections that are kept. It is how many uploads run at a time.
	maxIdleConnections = 16
	// defaultEndpoint is AWS.
	defaultEndpoint = "https://s3.amazonaws.com"
)

// S3Options configure the connection to a bucket.
type S3Options struct {
	// Endpoint is the server, "https://<host>[:<port>]" or "http://…", by default that of AWS. A bucket is a part of the
	// path, except at AWS and other clouds that want it in the host.
	Endpoint string
	// Region of the bucket. By default it is AWS_REGION, else AWS is asked, and all others have us-east-1.
	Region string
	// CredentialsFile is an AWS credentials file. It is read for each request, so that it may change. By default the
	// credentials are those of AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN. Without these, requests are
	// not signed.
	CredentialsFile string
	// CAFile has the certificates of the authorities that may sign the server's certificate, in PEM, by default those of
	// the machine.
	CAFile string
}

// S3 is a Store in a bucket. It deletes nothing. It needs the permissions s3:PutObject, s3:GetObject and s3:ListBucket.
type S3 struct {
	client   *minio.Core
	endpoint string
	bucket   string
	// prefix stands in front of all keys. It is empty or ends with a slash.
	prefix string
	// timeout is operationTimeout, except in tests.
	timeout time.Duration
	// conditions is a conditionSupport.
	conditions atomic.Int32
}

// conditionSupport is what a server does with If-None-Match. With the header, S3 stores an object only if the key does
// not exist, in one step. Some servers refuse the header, and others ignore it.
//
//	state        Put                                        next state
//	unknown      looks for the key, then sends the header   supported, if the server refuses a second put
//	                                                        unsupported, if it accepts that, or refuses the header
//	supported    sends the header
//	unsupported  looks for the key, then sends no header
//
// While it is not supported, one of two concurrent puts of a key may replace the object of the other.
type conditionSupport = int32

const (
	unknown conditionSupport = iota
	supported
	unsupported
)

// NewS3 returns the store in a bucket. A prefix stands in front of all keys, with a slash, unless it is empty. NewS3
// reads files of the options, but does not connect to the server.
func NewS3(bucket, prefix string, options S3Options) (*S3, error) {
	if err := s3utils.CheckValidBucketNameStrict(bucket); err != nil {
		return nil, fmt.Errorf("the bucket is %q: it must be a name of a bucket, of 3 to 63 lowercase letters, digits, "+
			"dots and hyphens: %w", bucket, err)
	}
	if prefix != "" {
		if err := checkKey(prefix); err != nil {
			return nil, fmt.Errorf("the prefix in the bucket is a part of keys: %w", err)
		}
		prefix += "/"
	}
	endpoint, err := url.Parse(cmp.Or(options.Endpoint, defaultEndpoint))
	if err != nil || endpoint.Host == "" || endpoint.Scheme != "https" && endpoint.Scheme != "http" ||
		endpoint.User != nil || strings.Trim(endpoint.Path, "/") != "" || endpoint.RawQuery != "" || endpoint.Fragment != "" {
		return nil, errors.New("the endpoint of S3 must be https://<host>[:<port>] or http://<host>[:<port>], without user, " +
			"path or query")
	}
	region := cmp.Or(options.Region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))
	if region == "" && !s3utils.IsAmazonEndpoint(*endpoint) {
		region = "us-east-1"
	}
	var roots *x509.CertPool
	if options.CAFile != "" {
		content, err := os.ReadFile(options.CAFile)
		if err != nil {
			return nil, fmt.Errorf("the CA file of S3: %w", err)
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(content) {
			return nil, fmt.Errorf("the CA file of S3 is %s: it must have certificates in PEM", options.CAFile)
		}
	}
	signers := environmentCredentials()
	if options.CredentialsFile != "" {
		signers = credentials.New(credentialsFile{path: options.CredentialsFile})
	}
	client, err := minio.NewCore(endpoint.Host, &minio.Options{
		Creds:  signers,
		Secure: endpoint.Scheme == "https",
		Region: region,
		// One request. The callers retry, and know how long they may wait. The library would read a body again from the start
		// while the transport may still read it for the last request.
		MaxRetries: 1,
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: dialTimeout,
			MaxIdleConnsPerHost: maxIdleConnections,
			IdleConnTimeout:     time.Minute,
			DisableCompression:  true, // ranges are of the stored bytes
		},
	})
	if err != nil {
		return nil, fmt.Errorf("the endpoint of S3 is %q: %w", options.Endpoint, err)
	}
	return &S3{client: client, endpoint: endpoint.Redacted(), bucket: bucket, prefix: prefix, timeout: operationTimeout}, nil
}

// Put implements Store.
func (s *S3) Put(ctx context.Context, key string, body []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	return s.call(ctx, key, func(ctx context.Context) error { return s.put(ctx, key, body) })
}

func (s *S3) put(ctx context.Context, key string, body []byte) error {
	err := s.attempt(ctx, key, body, s.conditions.Load() != supported)
	if _, lost := errors.AsType[*url.Error](err); lost && ctx.Err() == nil {
		// The server may have closed an idle connection, have stored the object, or have refused it before it had read the
		// whole body.
		return s.attempt(ctx, key, body, true)
	}
	return err
}

// attempt stores an object. If look is set, it looks for the key first.
func (s *S3) attempt(ctx context.Context, key string, body []byte, look bool) error {
	if look {
		switch _, err := s.client.StatObject(ctx, s.bucket, s.prefix+key, minio.StatObjectOptions{}); {
		case err == nil:
			return ErrExists
		case minio.ToErrorResponse(err).StatusCode != http.StatusNotFound:
			return err
		}
	}
	support := s.conditions.Load()
	if support == unsupported {
		return s.send(ctx, key, body, false)
	}
	err := s.send(ctx, key, body, true)
	if minio.ToErrorResponse(err).StatusCode == http.StatusNotImplemented {
		s.learn(ctx, unsupported)
		return s.send(ctx, key, body, false)
	}
	if err != nil || support == supported {
		return err
	}
	// The object is stored. A second put shows what the header does. If it replaces the object, then with the same bytes.
	switch err := s.send(ctx, key, body, true); {
	case err == nil:
		s.learn(ctx, unsupported)
	case minio.ToErrorResponse(err).StatusCode == http.StatusPreconditionFailed:
		s.learn(ctx, supported)
	}
	return nil
}

// learn sets what the server does with If-None-Match.
func (s *S3) learn(ctx context.Context, support conditionSupport) {
	if s.conditions.CompareAndSwap(unknown, support) && support == unsupported {
		klog.FromContext(ctx).Info("The S3 server does not support If-None-Match: "+
			"two uploads of one segment at the same time may replace one another", "endpoint", s.endpoint)
	}
}

// send stores an object with one request. With create, it asks the server to store it only if the key does not exist.
func (s *S3) send(ctx context.Context, key string, body []byte, create bool) error {
	// The whole body is signed, and the server checks it. The library would sign its chunks, and not even them in TLS.
	options := minio.PutObjectOptions{DisableContentSha256: true}
	if create {
		options.SetMatchETagExcept("*")
	}
	sum := sha256.Sum256(body)
	_, err := s.client.PutObject(ctx, s.bucket, s.prefix+key, bytes.NewReader(body), int64(len(body)), "",
		hex.EncodeToString(sum[:]), options)
	return err
}

// List implements Store.
func (s *S3) List(ctx context.Context, prefix string) ([]Object, error) {
	if err := checkPrefix(prefix); err != nil {
		return nil, err
	}
	var objects []Object
	err := s.call(ctx, prefix, func(ctx context.Context) error {
		options := minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true}
		for object := range s.client.ListObjectsIter(ctx, s.bucket, options) {
			if object.Err != nil {
				return object.Err
			}
			if key := strings.TrimPrefix(object.Key, s.prefix); isKey(key) {
				objects = append(objects, Object{Key: key, Size: object.Size})
			}
		}
		return ctx.Err() // then the iteration ends without an error
	})
	if err != nil {
		return nil, err
	}
	// Not all servers sort.
	slices.SortFunc(objects, func(a, b Object) int { return cmp.Compare(a.Key, b.Key) })
	return objects, nil
}

// ReadAt implements Store.
func (s *S3) ReadAt(ctx context.Context, key string, offset, length int64) ([]byte, error) {
	if err := errors.Join(checkKey(key), checkRange(offset, length)); err != nil {
		return nil, err
	}
	var body bytes.Buffer
	err := s.call(ctx, key, func(ctx context.Context) error {
		var options minio.GetObjectOptions
		options.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
		reader, info, header, err := s.client.GetObject(ctx, s.bucket, s.prefix+key, options)
		if minio.ToErrorResponse(err).StatusCode == http.StatusRequestedRangeNotSatisfiable {
			return nil // the range begins after the end of the object
		}
		if err != nil {
			return err
		}
		defer reader.Close()
		// A server may ignore the range and send the whole object.
		if header.Get("Content-Range") == "" {
			if _, err := io.CopyN(io.Discard, reader, offset); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
		}
		body.Grow(int(max(0, min(info.Size, length))) + bytes.MinRead)
		_, err = body.ReadFrom(io.LimitReader(reader, length))
		return err
	})
	if err != nil {
		return nil, err
	}
	return body.Bytes(), nil
}

// call calls do within the timeout, and translates its error about a key to that of a Store.
func (s *S3) call(ctx context.Context, key string, do func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	err := do(limited)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrExists):
		return fmt.Errorf("%s: %w", key, err)
	case ctx.Err() != nil:
		return ctx.Err()
	case limited.Err() != nil:
		return unavailable("the S3 server %s did not answer within %s", s.endpoint, s.timeout)
	default:
		return s.translate(key, err)
	}
}

// reasons has the causes of errors of S3 in plain words, by their codes.
var reasons = map[string]string{
	"AccessDenied":                   denied,
	"AccountProblem":                 denied,
	"AllAccessDisabled":              denied,
	"AuthorizationHeaderMalformed":   elsewhere,
	"ConditionalRequestConflict":     busy,
	"ExpiredToken":                   expired,
	"InsufficientCapacity":           full,
	"InvalidAccessKeyId":             wrong,
	"InvalidRegion":                  elsewhere,
	"InvalidToken":                   expired,
	"NoSuchBucket":                   "the bucket does not exist",
	"OperationAborted":               busy,
	"PermanentRedirect":              elsewhere,
	"QuotaExceeded":                  full,
	"RequestTimeTooSkewed":           "the clocks of this machine and of the server differ too much",
	"SignatureDoesNotMatch":          wrong,
	"SlowDown":                       slow,
	"TemporaryRedirect":              elsewhere,
	"XAdminUserNotFound":             wrong, // versitygw
	"XMinioAdminBucketQuotaExceeded": full,
	"XMinioStorageFull":              full,
}

const (
	busy      = "another upload under the same key has not ended"
	denied    = "the credentials do not allow the request, or there are none"
	elsewhere = "the bucket is in another region, or the region is wrong"
	expired   = "the credentials have expired, or their session token is wrong"
	full      = "the server or the quota of the bucket is full"
	slow      = "the server is overloaded and wants fewer requests"
	wrong     = "the credentials are wrong"
)

// translate returns the error of a Store for an error of the library about a key. The result has no words of the server
// except its codes: a server may repeat what the request has had.
func (s *S3) translate(key string, err error) error {
	if credentials, ok := errors.AsType[credentialsError](err); ok {
		return unavailable("no credentials for the S3 server %s: %w", s.endpoint, credentials.error)
	}
	response, ok := errors.AsType[minio.ErrorResponse](err)
	if request, ok := errors.AsType[*url.Error](err); ok {
		err = request.Err // the URL has long parameters
	}
	if !ok {
		return unavailable("the connection to the S3 server %s has failed: %w", s.endpoint, err)
	}
	switch {
	case response.Code == minio.NoSuchKey:
		return fmt.Errorf("%s: %w", key, ErrNotFound)
	case response.StatusCode == http.StatusPreconditionFailed:
		return fmt.Errorf("%s: %w", key, ErrExists)
	}
	reason := reasons[response.Code]
	if reason == "" {
		switch response.StatusCode {
		case http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
			reason = elsewhere
		case http.StatusUnauthorized, http.StatusForbidden:
			reason = denied
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			reason = slow
		case http.StatusInsufficientStorage:
			reason = full
		default:
			reason = "the server has failed or does not accept the request"
		}
	}
	return unavailable("bucket %s of the S3 server %s: %s (status %d, code %q)",
		s.bucket, s.endpoint, reason, response.StatusCode, response.Code)
}
