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

package pool

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// FieldManager is the field manager with which the controller of pools writes spec.replicas.
const FieldManager = "leat-pools"

// ScaledBy returns the field manager that has written the replicas of the StatefulSet of a pool, and whether it is
// neither the controller of pools nor "leat pool".
func ScaledBy(metav1.Object) (manager string, foreign bool) { return "", false }

// ResumeCommand returns the command with which a person ends the claim of the manager that ScaledBy returns. It is
// empty if there is none.
func ResumeCommand(metav1.Object) string { return "" }
