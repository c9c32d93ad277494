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
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/component-base/metrics/legacyregistry"
)

// CertificateExpiration collects the expiration times of the certificates of the server that was last created in this
// process. It reads the certificates when it collects, so it follows their rotation.
var CertificateExpiration prometheus.Collector = &certificateExpiration

var (
	certificateExpiration     certificateExpirationCollector
	certificateExpirationDesc = prometheus.NewDesc("leat_apiserver_certificate_expiration_timestamp_seconds",
		"Expiration time of a certificate that the server presents: to clients (serving), to etcd (etcd_client), to workers (worker_client).",
		[]string{"certificate"}, nil)
)

func init() { legacyregistry.RawMustRegister(CertificateExpiration) }

type certificateExpirationCollector struct {
	// certificates holds functions that return certificates, in PEM, by the value of the label.
	certificates atomic.Pointer[map[string]func() ([]byte, error)]
}

// Describe implements prometheus.Collector.
func (*certificateExpirationCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- certificateExpirationDesc
}

// Collect implements prometheus.Collector. It leaves out certificates that it cannot read: their users report the
// error.
func (c *certificateExpirationCollector) Collect(metrics chan<- prometheus.Metric) {
	certificates := c.certificates.Load()
	if certificates == nil {
		return
	}
	for name, read := range *certificates {
		data, err := read()
		if err != nil {
			continue
		}
		chain, err := certutil.ParseCertsPEM(data)
		if err != nil {
			continue
		}
		metrics <- prometheus.MustNewConstMetric(certificateExpirationDesc, prometheus.GaugeValue, float64(chain[0].NotAfter.Unix()), name)
	}
}
