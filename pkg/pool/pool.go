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

// Package pool describes a pool of workers: a StatefulSet with the label batch.leat.dev/pool, whose annotations set how
// many workers it may have and what each of them offers. "leat pool" writes the annotations, and the controller of
// pools reads them.
package pool

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// Annotations of the StatefulSet of a pool.
const (
	// AnnotationMin and AnnotationMax are the least and the largest number of workers. If both are equal, the pool always
	// has that many.
	AnnotationMin = "batch.leat.dev/pool-min"
	AnnotationMax = "batch.leat.dev/pool-max"
	// AnnotationIdleSeconds is how long a worker has had no tasks when it is removed.
	AnnotationIdleSeconds = "batch.leat.dev/pool-idle-seconds"
	// AnnotationWorker is what each worker offers: a Worker template in JSON.
	AnnotationWorker = "batch.leat.dev/pool-worker"
	// AnnotationInfoHash is the hash of the data of the ConfigMap leat-info that the pool was made with.
	AnnotationInfoHash = "batch.leat.dev/pool-info-hash"
)

const (
	// MaxWorkers is the largest number of workers of a pool.
	MaxWorkers = 5000
	// DefaultIdle is how long a worker of a pool has had no tasks when it is removed, unless the pool says otherwise.
	DefaultIdle = time.Minute
	// MaxIdle is the longest time that a pool may keep an idle worker.
	MaxIdle = 7 * 24 * time.Hour
	// maxAnnotation is the largest size of AnnotationWorker in bytes.
	maxAnnotation = 16 << 10
)

// Settings are what the annotations of a pool say.
type Settings struct {
	// Min and Max are the least and the largest number of workers.
	Min, Max int32
	// Idle is how long a worker has had no tasks when it is removed.
	Idle time.Duration
	// Worker is what each worker of the pool offers.
	Worker Worker
}

// Worker is what a worker of a pool will offer when it has registered.
type Worker struct {
	// Allocatable is how much of each resource tasks can request, with the resource "tasks".
	Allocatable batch.ResourceList `json:"allocatable,omitempty"`
	// Labels are the labels of the Worker, without that of the pool.
	Labels map[string]string `json:"labels,omitempty"`
	// Taints are the taints that the worker registers with.
	Taints []batch.Taint `json:"taints,omitempty"`
}

// Annotations returns the annotations that Parse returns the settings for.
func (s *Settings) Annotations() (map[string]string, error) {
	worker, err := json.Marshal(s.Worker)
	if err != nil {
		return nil, err
	}
	return map[string]string{
		AnnotationMin:         strconv.Itoa(int(s.Min)),
		AnnotationMax:         strconv.Itoa(int(s.Max)),
		AnnotationIdleSeconds: strconv.Itoa(int(s.Idle / time.Second)),
		AnnotationWorker:      string(worker),
	}, nil
}

// Parse returns the settings in the annotations of a StatefulSet. It returns an error that names each annotation that
// is missing or wrong, and what would be accepted.
func Parse(object metav1.Object) (*Settings, error) {
	annotations := object.GetAnnotations()
	count := func(key string, least, most int64) (int64, error) {
		n, err := strconv.ParseInt(annotations[key], 10, 64)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("annotation %s=%.40q: must be a number from %d to %d", key, annotations[key], least, most)
		}
		return n, nil
	}
	least, errMin := count(AnnotationMin, 0, MaxWorkers)
	most, errMax := count(AnnotationMax, max(least, 1), MaxWorkers)
	s := &Settings{Min: int32(least), Max: int32(most), Idle: DefaultIdle}
	var errIdle error
	if _, ok := annotations[AnnotationIdleSeconds]; ok {
		var seconds int64
		seconds, errIdle = count(AnnotationIdleSeconds, 0, int64(MaxIdle/time.Second))
		s.Idle = time.Duration(seconds) * time.Second
	}
	var errWorker error
	if text := annotations[AnnotationWorker]; len(text) > maxAnnotation {
		errWorker = fmt.Errorf("annotation %s has %d bytes: at most %d are accepted", AnnotationWorker, len(text), maxAnnotation)
	} else if err := json.Unmarshal([]byte(text), &s.Worker); err != nil {
		errWorker = fmt.Errorf("annotation %s: must be what a worker offers, like %s: %w", AnnotationWorker, `{"allocatable":{"tasks":"8","cpu":"4"}}`, err)
	}
	if err := errors.Join(errMin, errMax, errIdle, errWorker); err != nil {
		return nil, err
	}
	return s, nil
}

// Names of the objects of a pool. The StatefulSet has the name of the pool, and so its workers are NAME-0, NAME-1, …

// ObjectName returns the name of the ServiceAccount, the ConfigMap, the NetworkPolicy and the RoleBinding to
// leat:worker of a pool.
func ObjectName(pool string) string { return "leat-pool-" + pool }

// ScalerBinding returns the name of the RoleBinding of a pool to leat:pool-scaler.
func ScalerBinding(pool string) string { return "leat-pool-" + pool + "-scaler" }

// WorkerName returns the name of the worker of an ordinal of a pool.
func WorkerName(pool string, ordinal int) string { return pool + "-" + strconv.Itoa(ordinal) }

// The ConfigMap in the system namespace with what a pool needs to know. The controller manager maintains it.
const (
	InfoConfigMap = "leat-info"
	// InfoServer is the key of the address of leat-apiserver inside of the cluster.
	InfoServer = "server"
	// InfoCA and InfoClientCA are the keys of the certificate authorities of leat-apiserver, and of the client certificate
	// with which it reads logs from workers.
	InfoCA       = "ca.crt"
	InfoClientCA = "client-ca.crt"
	// InfoImage is the key of the image with leat-worker.
	InfoImage = "image"
)

// Roles that the objects of a pool bind.
const (
	WorkerRole = "leat:worker"
	ScalerRole = "leat:pool-scaler"
)
