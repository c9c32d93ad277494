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

// Package registry implements storage for all kinds: stores, strategies, scale and tables. A kind consists of a
// Resource, which is generated from the markers of its type, and a value with its domain rules.
package registry

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
)

// Resource describes the kind with the internal type T and the list type L. Resources are generated and immutable.
type Resource[T, L any] struct {
	// GroupResource is the group and the plural name.
	GroupResource schema.GroupResource
	// Singular is the singular name, in lower case.
	Singular string
	// ShortNames are short forms of the plural name, for kubectl.
	ShortNames []string
	// Categories are the groups of kinds, such as "all", that the kind belongs to.
	Categories []string
	// Namespaced is true for kinds whose objects are in a namespace.
	Namespaced bool
	// Unwatched is true for kinds that do not serve watch.
	Unwatched bool

	// Meta returns the metadata of an object.
	Meta func(*T) *metav1.ObjectMeta
	// Spec is the part that is written through the main resource.
	Spec Part[T]
	// Status is the part that is written through the status subresource. Nil if there is none.
	Status *Part[T]
	// Conditions returns status.conditions. Nil if there are none.
	Conditions func(*T) []metav1.Condition

	// Fields are the fields that field selectors may name, besides metadata.name and metadata.namespace.
	Fields []Field[T]
	// Trigger is the label of the field that the watch cache indexes watchers by, so that an event is matched only
	// against watchers of its value. Empty if there is none.
	Trigger string
	// Columns are the columns of a table after the name.
	Columns []Column[T]
	// Versions are the differences of versions from the first one, by name of the version. All other paths and columns
	// are those of the first version.
	Versions map[string]Version[T]
	// Scale maps the scale subresource. Nil if there is none.
	Scale *Scale[T]
}

// Part is a top-level member of a kind, such as its spec.
type Part[T any] struct {
	// Get returns a pointer to the part.
	Get func(*T) any
	// Copy makes a shallow copy of the part.
	Copy func(to, from *T)
}

// Field is a field that field selectors may name.
type Field[T any] struct {
	// Label is the path of the field, like "spec.workerName".
	Label string
	// Get returns the value of the field as a string.
	Get func(*T) string
}

// Column is a column of a table.
type Column[T any] struct {
	metav1.TableColumnDefinition
	// Cell returns the value of the column: a string, an int64 or a bool.
	Cell func(*T) any
}

// Version is what differs in a version.
type Version[T any] struct {
	// Paths are the paths of moved and renamed fields, by their path in the first version.
	Paths map[string]string
	// Columns are the columns of a table after the name. Nil if they are those of the first version.
	Columns []Column[T]
}

// Scale maps autoscaling/v1 Scale to fields of a kind.
type Scale[T any] struct {
	// ReplicasPath is the path, in the first version, of the field that Replicas and SetReplicas access.
	ReplicasPath string
	// Replicas returns the desired number.
	Replicas func(*T) int32
	// SetReplicas sets the desired number.
	SetReplicas func(*T, int32)
	// StatusReplicas returns the actual number.
	StatusReplicas func(*T) int32
	// Selector returns the selector of the replicas.
	Selector func(*T) *metav1.LabelSelector
}

// Kind is a Resource of any type.
type Kind interface {
	// Describe returns the description of the kind.
	Describe() Description
	// NewStores opens the stores of the kind with its domain rules.
	NewStores(scheme *runtime.Scheme, rules any, getter generic.RESTOptionsGetter) (*Stores, error)
}

// Description holds the facts of a Resource, without its accessors.
type Description struct {
	GroupResource schema.GroupResource
	Namespaced    bool
	Unwatched     bool
	HasStatus     bool
	HasScale      bool
	// Fields are the labels of the selectable fields, without those of the metadata.
	Fields []string
	// Trigger is the label of the field that the watch cache indexes watchers by.
	Trigger string
	// Columns are the definitions of all columns of the first version, including the name.
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
		Columns:       columnDefinitions(r.Columns),
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
