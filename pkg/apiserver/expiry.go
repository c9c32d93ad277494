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

package apiserver

import (
	"os"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/component-base/metrics/legacyregistry"
)

// CertificateEnds tells in metrics when the certificates end that the last server made in this process shows others. They are looked
// at when they are asked for, so that it is told of those that have been put in the place of others.
var CertificateEnds prometheus.Collector = &certificateEnds

var (
	certificateEnds     shown
	certificateEndsDesc = prometheus.NewDesc("leat_apiserver_certificate_expiration_timestamp_seconds",
		"When a certificate ends that the server shows: to clients (serving), to etcd (etcd_client), to workers (worker_client).",
		[]string{"certificate"}, nil)
)

func init() { legacyregistry.RawMustRegister(CertificateEnds) }

// shown gives the certificates, in PEM, by what they are for.
type shown struct {
	certificates atomic.Pointer[map[string]func() ([]byte, error)]
}

// fromFile gives a certificate that is read where it is used.
func fromFile(path string) func() ([]byte, error) {
	return func() ([]byte, error) { return os.ReadFile(path) }
}

// Describe implements prometheus.Collector.
func (*shown) Describe(all chan<- *prometheus.Desc) { all <- certificateEndsDesc }

// Collect implements prometheus.Collector. What cannot be read is left out: whoever uses it says so.
func (s *shown) Collect(all chan<- prometheus.Metric) {
	certificates := s.certificates.Load()
	if certificates == nil {
		return
	}
	for what, read := range *certificates {
		data, err := read()
		if err != nil {
			continue
		}
		chain, err := certutil.ParseCertsPEM(data)
		if err != nil {
			continue
		}
		all <- prometheus.MustNewConstMetric(certificateEndsDesc, prometheus.GaugeValue, float64(chain[0].NotAfter.Unix()), what)
	}
}
