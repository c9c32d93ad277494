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

package controller

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/internal/metrics"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
)

// TestMetricNames checks that the controllers register the metrics in metrics.Names and no others.
func TestMetricNames(t *testing.T) {
	for _, name := range metrics.Names {
		// A collector with the name of a registered one is refused.
		if ctrlmetrics.Registry.Register(prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: "test"})) == nil {
			t.Errorf("%s is not registered", name)
		}
	}
	families, err := ctrlmetrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if name := family.GetName(); strings.HasPrefix(name, "leat_") && !slices.Contains(metrics.Names, name) {
			t.Errorf("%s is not in metrics.Names", name)
		}
	}
}

func TestRefusedRequestsAreNotRetried(t *testing.T) {
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests++
		w.Header().Set("Retry-After", "60")
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusTooManyRequests)
		_, err := w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"TooManyRequests","code":429,"details":{"retryAfterSeconds":60}}`))
		if err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	config := &rest.Config{Host: server.URL}
	config.Wrap(withoutRetryAfter)
	client, err := versioned.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	_, err = client.BatchV1alpha1().Tasks("ns").Create(t.Context(), &batch.Task{}, metav1.CreateOptions{})
	seconds, ok := apierrors.SuggestsClientDelay(err)
	if !apierrors.IsTooManyRequests(err) || !ok || seconds != 60 {
		t.Errorf("the error is %v, with a delay of %d s", err, seconds)
	}
	if requests != 1 || time.Since(started) > 30*time.Second {
		t.Errorf("%d requests", requests)
	}
}
