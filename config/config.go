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

// Package config holds the manifests that install Leat, and embeds those that programs read.
package config

import (
	"embed"
	"io/fs"
)

//go:embed base/rbac/*.yaml
var base embed.FS

// RBAC returns the roles and bindings of Leat: YAML files such as admin.yaml, with one or more documents of the group
// rbac.authorization.k8s.io/v1 each. The standalone server authorizes with them, so that a role grants the same
// there as on a host. The file system is read-only and safe for concurrent use.
func RBAC() fs.FS {
	rbac, err := fs.Sub(base, "base/rbac")
	if err != nil {
		panic(err) // only a malformed path fails
	}
	return rbac
}
