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

package v1alpha1

// Identities of Leat's programs, which certificates, RBAC bindings and the authorizer of workers agree on.
const (
	// SystemNamespace is the namespace of the installation.
	SystemNamespace = "leat-system"
	// ControllerUser is the user of the controllers and the scheduler.
	ControllerUser = "system:serviceaccount:" + SystemNamespace + ":leat-controller-manager"
	// WorkerAudience is the audience of the tokens with which worker pods authenticate.
	WorkerAudience = "workers." + GroupName
	// WorkersGroup is the group of all workers, and the organization in their client certificates.
	WorkersGroup = "leat:workers"
	// WorkerUserPrefix is the prefix of the user names of workers.
	WorkerUserPrefix = "leat:worker:"
)

// WorkerUser returns the user name of a worker, which is the common name of its client certificate. Neither a namespace
// nor a name contains a colon, so the user name is unambiguous.
func WorkerUser(namespace, name string) string {
	return WorkerUserPrefix + namespace + ":" + name
}
