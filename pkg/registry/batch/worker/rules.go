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

// Package worker holds the domain rules of workers.
package worker

import (
	"context"
	"maps"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/util/cert"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/pkg/registry/batch/resources"
)

// Rules are the domain rules of workers.
type Rules struct{}

// ValidateStatus implements registry.StatusValidator.
func (Rules) ValidateStatus(_ context.Context, worker *batch.Worker) field.ErrorList {
	path := field.NewPath("status")
	known := []batch.ResourceName{batch.ResourceTasks, batch.ResourceCPU, batch.ResourceMemory}
	errs := resources.Validate(worker.Status.Capacity, path.Child("capacity"), known...)
	errs = append(errs, resources.Validate(worker.Status.Allocatable, path.Child("allocatable"), known...)...)
	for _, name := range slices.Sorted(maps.Keys(worker.Status.Allocatable)) {
		allocatable := worker.Status.Allocatable[name]
		if capacity := worker.Status.Capacity[name]; allocatable.Cmp(capacity) > 0 {
			errs = append(errs, field.Invalid(path.Child("allocatable").Key(string(name)), allocatable.String(),
				"must be less than or equal to the capacity, "+capacity.String()))
		}
	}
	return append(errs, validateEndpoint(worker.Status.Endpoint, path.Child("endpoint"))...)
}

// Validate implements registry.Validator. Declarative validation covers all fields.
func (Rules) Validate(context.Context, *batch.Worker) field.ErrorList { return nil }

// ValidateChange implements registry.Validator. It refuses to set spec.denied while the Worker is being deleted, since
// the denial would be deleted with it.
func (Rules) ValidateChange(_ context.Context, worker, old *batch.Worker) field.ErrorList {
	if old != nil && old.DeletionTimestamp != nil && worker.Spec.Denied && !old.Spec.Denied {
		return field.ErrorList{field.Forbidden(field.NewPath("spec", "denied"),
			"must not be set while the Worker is being deleted: deny its name when it is gone")}
	}
	return nil
}

// maxCABundle bounds the caBundle of an endpoint, in bytes.
const maxCABundle = 16 << 10

func validateEndpoint(endpoint *batch.WorkerEndpoint, path *field.Path) field.ErrorList {
	if endpoint == nil {
		return nil
	}
	var errs field.ErrorList
	if _, err := netip.ParseAddr(endpoint.Host); err != nil && len(validation.IsDNS1123Subdomain(endpoint.Host)) > 0 {
		errs = append(errs, field.Invalid(path.Child("host"), endpoint.Host, "must be an IP address or a DNS name"))
	}
	if len(endpoint.CABundle) > maxCABundle {
		errs = append(errs, field.TooLong(path.Child("caBundle"), "", maxCABundle))
	} else if _, err := cert.ParseCertsPEM(endpoint.CABundle); err != nil && len(endpoint.CABundle) > 0 {
		errs = append(errs, field.Invalid(path.Child("caBundle"), "", "must be certificates in PEM: "+err.Error()))
	}
	return errs
}

// ValidateStatusChange implements registry.StatusValidator. Every change is valid.
func (Rules) ValidateStatusChange(context.Context, *batch.Worker, *batch.Worker) field.ErrorList {
	return nil
}
