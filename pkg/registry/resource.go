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

// Package registry holds what every kind shares: how it is stored, prepared, validated, fenced, scaled and shown. What is
// particular to a kind is a Resource, generated from the markers of its types, and a value with its domain rules.
package registry

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
)

// Resource describes the kind with the internal type T and the list type L. Resources are data: they are generated, and
// never changed.
type Resource[T, L any] struct {
	// GroupResource is the group and the plural name.
	GroupResource schema.GroupResource
	// Singular is the singular name, in lower case.
	Singular string
	// ShortNames are what people type instead of the plural.
	ShortNames []string
	// Categories are the groups of kinds, such as "all", that the kind belongs to.
	Categories []string
	// Namespaced is whether objects live in a namespace.
	Namespaced bool
	// Unwatched is whether the kind serves no watch.
	Unwatched bool

	// Meta gives the object's metadata.
	Meta func(*T) *metav1.ObjectMeta
	// Spec is the part written through the main resource.
	Spec Part[T]
	// Status is the part written through the status subresource, nil where there is none.
	Status *Part[T]
	// Conditions gives status.conditions, nil where there are none.
	Conditions func(*T) []metav1.Condition

	// Fields are the fields that selectors may name, besides metadata.name and metadata.namespace.
	Fields []Field[T]
	// Trigger is the label of the one field by which the watch cache finds the watchers of an event without asking them
	// all. Empty where there is none.
	Trigger string
	// Columns are what a table shows after the name.
	Columns []Column[T]
	// Scale maps the scale subresource, nil where there is none.
	Scale *Scale[T]
}

// Part is a top-level member of a kind that is written as a whole.
type Part[T any] struct {
	// Get gives a pointer to the part.
	Get func(*T) any
	// Copy copies the part, sharing what it points to.
	Copy func(to, from *T)
}

// Field is a field that selectors may name.
type Field[T any] struct {
	// Label is the field's path, like "spec.workerName".
	Label string
	// Get gives the field's value in its string form.
	Get func(*T) string
}

// Column is a column of a table.
type Column[T any] struct {
	metav1.TableColumnDefinition
	// Cell gives the column's value: a string, an int64 or a bool.
	Cell func(*T) any
}

// Scale maps autoscaling/v1 Scale to fields of a kind.
type Scale[T any] struct {
	// ReplicasPath is the path of the field that Replicas and SetReplicas access, from the object's root.
	ReplicasPath []string
	// Replicas gives the number that is wanted.
	Replicas func(*T) int32
	// SetReplicas sets the number that is wanted.
	SetReplicas func(*T, int32)
	// StatusReplicas gives the number that there is.
	StatusReplicas func(*T) int32
	// Selector gives the selector of what is counted.
	Selector func(*T) *metav1.LabelSelector
}

// Kind is what is known of a Resource without its types.
type Kind interface {
	// Describe gives the facts.
	Describe() Description
	// NewStores opens the kind's stores with the domain rules given.
	NewStores(scheme *runtime.Scheme, rules any, getter generic.RESTOptionsGetter) (*Stores, error)
}

// Description is a Resource's facts, without its accessors.
type Description struct {
	GroupResource schema.GroupResource
	Namespaced    bool
	Unwatched     bool
	HasStatus     bool
	HasScale      bool
	// Fields are the labels of the selectable fields, metadata aside.
	Fields []string
	// Trigger is the label of the watch cache's trigger.
	Trigger string
	// Columns are the definitions of all columns, the name's among them.
	Columns []metav1.TableColumnDefinition
}

// Describe implements Kind.
func (r Resource[T, L]) Describe() Description {
	return Description{
		GroupResource: r.GroupResource,
		Namespaced:    r.Namespaced,
		Unwatched:     r.Unwatched,
		HasStatus:     r.Status != nil,
		HasScale:      r.Scale != nil,
		Fields:        r.fieldLabels(),
		Trigger:       r.Trigger,
		Columns:       r.columnDefinitions(),
	}
}

func (r Resource[T, L]) fieldLabels() []string {
	labels := make([]string, 0, len(r.Fields))
	for _, field := range r.Fields {
		labels = append(labels, field.Label)
	}
	return labels
}

func (r Resource[T, L]) new() runtime.Object     { return any(new(T)).(runtime.Object) }
func (r Resource[T, L]) newList() runtime.Object { return any(new(L)).(runtime.Object) }
