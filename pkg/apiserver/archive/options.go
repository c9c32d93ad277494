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

package archive

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/klog/v2"

	"github.com/leat-dev/leat/pkg/archive/store"
)

const (
	// DefaultRetention is how long a directory keeps segments by default.
	DefaultRetention = 7 * 24 * time.Hour
	// pruneInterval is how often old segments are removed from a directory.
	pruneInterval = time.Hour
)

// StoreOptions configure the store of the archive, and what workers may store in it.
type StoreOptions struct {
	// Store names the store. There is no archive without its URL.
	Store store.Options
	// Retention is how long segments in a directory are kept.
	Retention time.Duration
	// MaxRatePerNamespace is how many bytes a second the workers of a namespace may store, and MaxBytesPerAttempt the
	// maximum size of the output of an attempt.
	MaxRatePerNamespace, MaxBytesPerAttempt resource.QuantityValue
}

// NewStoreOptions returns options with their defaults: without an archive.
func NewStoreOptions() *StoreOptions {
	return &StoreOptions{
		Retention:           DefaultRetention,
		MaxRatePerNamespace: resource.QuantityValue{Quantity: *resource.NewQuantity(DefaultMaxRatePerNamespace, resource.BinarySI)},
		MaxBytesPerAttempt:  resource.QuantityValue{Quantity: *resource.NewQuantity(DefaultMaxBytesPerAttempt, resource.BinarySI)},
	}
}

// AddFlags adds the flags of the options.
func (o *StoreOptions) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Store.URL, "archive", o.Store.URL,
		"Where the output and the records of finished attempts are kept: file:///DIRECTORY, which all replicas of the server must share, or s3://BUCKET/PREFIX. "+
			"By default they are not kept.")
	flags.StringVar(&o.Store.S3.Endpoint, "archive-s3-endpoint", o.Store.S3.Endpoint, "Address of the S3 server of --archive, like https://s3.example.com. By default that of AWS.")
	flags.StringVar(&o.Store.S3.Region, "archive-s3-region", o.Store.S3.Region, "Region of the bucket of --archive. By default $AWS_REGION, or what the server says.")
	flags.StringVar(&o.Store.S3.CredentialsFile, "archive-s3-credentials-file", o.Store.S3.CredentialsFile,
		"File with aws_access_key_id and aws_secret_access_key for the bucket of --archive, in the format of AWS. It is read again when it changes. "+
			"By default $AWS_ACCESS_KEY_ID and $AWS_SECRET_ACCESS_KEY.")
	flags.StringVar(&o.Store.S3.CAFile, "archive-s3-ca-file", o.Store.S3.CAFile, "File with the certificates of the authorities of the S3 server of --archive. By default those of the system.")
	flags.DurationVar(&o.Retention, "archive-retention", o.Retention,
		"How long a directory of --archive keeps output and records. From a bucket the server removes nothing: give it a lifecycle rule.")
	flags.Var(&o.MaxRatePerNamespace, "archive-max-rate-per-namespace", "How many bytes a second the workers of a namespace may add to --archive.")
	flags.Var(&o.MaxBytesPerAttempt, "archive-max-bytes-per-attempt",
		"Maximum size of the output of an attempt in --archive, not compressed. Workers keep no more, even if their flag of the same name has a larger value.")
}

// isS3 reports whether the archive is a bucket.
func (o *StoreOptions) isS3() bool { return strings.HasPrefix(o.Store.URL, "s3:") }

// Validate returns the errors in the options.
func (o *StoreOptions) Validate() []error {
	var errs []error
	if o.Store.URL != "" && !o.isS3() && !strings.HasPrefix(o.Store.URL, "file:") {
		errs = append(errs, fmt.Errorf("--archive=%s: must be file:///DIRECTORY or s3://BUCKET/PREFIX, or empty for no archive", o.Store.URL))
	}
	for _, flag := range []struct{ name, value string }{
		{"endpoint", o.Store.S3.Endpoint}, {"region", o.Store.S3.Region}, {"credentials-file", o.Store.S3.CredentialsFile}, {"ca-file", o.Store.S3.CAFile},
	} {
		if flag.value != "" && !o.isS3() {
			errs = append(errs, fmt.Errorf("--archive-s3-%s=%s: may be set only with --archive=s3://BUCKET/PREFIX", flag.name, flag.value))
		}
	}
	if o.Retention <= 0 {
		errs = append(errs, fmt.Errorf("--archive-retention=%s: must be more than 0", o.Retention))
	}
	if o.Retention != DefaultRetention && o.isS3() {
		errs = append(errs, fmt.Errorf("--archive-retention=%s: must not be set with a bucket, from which the server removes nothing: give the bucket a lifecycle rule", o.Retention))
	}
	const minRate, maxRate, minBytes, maxBytes = 1 << 10, 1 << 40, 1 << 10, 64 << 20
	if rate := o.MaxRatePerNamespace.Value(); rate < minRate || rate > maxRate {
		errs = append(errs, fmt.Errorf("--archive-max-rate-per-namespace=%s: must be from 1Ki to 1Ti", o.MaxRatePerNamespace.String()))
	}
	if size := o.MaxBytesPerAttempt.Value(); size < minBytes || size > maxBytes {
		errs = append(errs, fmt.Errorf("--archive-max-bytes-per-attempt=%s: must be from 1Ki to 64Mi", o.MaxBytesPerAttempt.String()))
	}
	return errs
}

// New returns an archive with the options, whose Objects must be set. It does not use the store, which may be away.
func (o *StoreOptions) New(workers Workers, namespaceID func(ctx context.Context, namespace string) (string, error)) (*Archive, error) {
	options := Options{
		Workers: workers, NamespaceID: namespaceID,
		MaxRatePerNamespace: o.MaxRatePerNamespace.Value(), MaxBytesPerAttempt: o.MaxBytesPerAttempt.Value(),
	}
	if o.Store.URL != "" {
		var err error
		if options.Store, err = store.New(o.Store); err != nil {
			return nil, fmt.Errorf("--archive=%s: %w", o.Store.URL, err)
		}
	}
	a := New(options)
	a.retention = o.Retention
	return a, nil
}

// pruner is a store that removes old objects.
type pruner interface {
	// Prune removes the objects that were stored before a time, and returns their number.
	Prune(ctx context.Context, before time.Time) (int, error)
}

// Run looks whether the store can be used, which it logs, and removes old segments from a directory until ctx is done.
func (a *Archive) Run(ctx context.Context) {
	logger := klog.FromContext(ctx)
	if a.Store == nil {
		return
	}
	if err := a.check(ctx); err != nil {
		logger.Error(err, "Cannot use the archive; output and records stay on workers until it can be used")
	}
	directory, ok := a.Store.(pruner)
	if !ok {
		return
	}
	ticker := time.NewTicker(pruneInterval)
	defer ticker.Stop()
	for {
		switch count, err := directory.Prune(ctx, a.Clock.Now().Add(-a.retention)); {
		case ctx.Err() != nil:
			return
		case err != nil:
			logger.Error(err, "Failed to remove old segments from the archive")
		case count > 0:
			logger.V(2).Info("Removed old segments from the archive", "count", count, "retention", a.retention)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// check returns an error if the store cannot be used.
func (a *Archive) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	// There is no such object. To list all would take long.
	_, err := a.Store.ReadAt(ctx, "leat-archive-check", 0, 1)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
