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

package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// +genclient
// +leat:resource:plural=rides,short=rd|r,categories=all|fun,owns=Gate
// +leat:subresource:ticket=TicketREST
// +leat:scale:spec=spec.cars,status=status.running,selector=spec.selector
// +leat:column:name=State,type=string,func=StateColumn,description=What the ride does, "waiting" or "moving".
// +leat:column:name=Kind,type=string,path=spec.kind,description=The kind of ride.
// +leat:column:name=Running,type=integer,path=status.running,description=How many cars run.
// +leat:column:name=Open,type=boolean,priority=1,path=spec.hours.open,description=Whether the ride is open.
// +leat:column:name=Age,type=date,path=metadata.creationTimestamp,description=The time since the ride was built.

// Ride is namespaced and has all that a kind can have.
type Ride struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   RideSpec   `json:"spec"`
	Status RideStatus `json:"status,omitempty"`
}

// RideList is a list of rides.
type RideList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Ride `json:"items"`
}

// RideKind is a string with a name.
type RideKind string

// RideSpec has fields of several types.
type RideSpec struct {
	// +leat:selectable
	Kind RideKind `json:"kind"`
	// Park is where the ride stands.
	// +leat:selectable:trigger
	Park string `json:"park,omitempty"`
	// +leat:selectable
	Height int32 `json:"height,omitempty"`

	Hours    Hours                 `json:"hours,omitempty"`
	Next     *Hours                `json:"next,omitempty"`
	Cars     *int32                `json:"cars,omitempty"`
	Names    []string              `json:"names,omitempty"`
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
	Template RideTemplate          `json:"template"`
}

// Hours is a struct in a struct.
type Hours struct {
	// +leat:selectable
	Open bool `json:"open"`
}

// RideTemplate is an object in the object: what selects gates does not select rides.
type RideTemplate struct {
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec GateSpec `json:"spec"`
}

// RideStatus has conditions.
type RideStatus struct {
	Running    int32              `json:"running"`
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// +genclient
// +genclient:nonNamespaced
// +genclient:noStatus
// +genclient:skipVerbs=patch,watch
// +leat:resource:plural=gates
// +leat:scale:spec=spec.lanes,status=status.lanes,selector=spec.selector

// Gate is cluster-scoped, unwatched, without conditions, columns or subresources but scale.
type Gate struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   GateSpec   `json:"spec"`
	Status GateStatus `json:"status"`
}

// GateList is a list of gates.
type GateList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Gate `json:"items"`
}

// GateSpec is shared by gates and the template of rides.
type GateSpec struct {
	// +leat:selectable
	Guests int64 `json:"guests"`

	Lanes    int32                 `json:"lanes"`
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// GateStatus is not written through a subresource.
type GateStatus struct {
	Lanes int32 `json:"lanes"`
}
