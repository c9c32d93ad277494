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

package registry

import (
	"context"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// path returns the path of a field in a version. The argument is its path in the first version.
func (v Version[T]) path(first string) string {
	for from, to := range v.Paths {
		if rest, ok := strings.CutPrefix(first, from); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return to + rest
		}
	}
	return first
}

// fieldPath returns the path of a field in a version, as field managers name it.
func (v Version[T]) fieldPath(first string) fieldpath.Path {
	var path fieldpath.Path
	for name := range strings.SplitSeq(v.path(first), ".") {
		path = append(path, fieldpath.PathElement{FieldName: &name})
	}
	return path
}

// requestedVersion returns the differences of the version of a request.
func (r Resource[T, L]) requestedVersion(ctx context.Context) Version[T] {
	if info, ok := genericapirequest.RequestInfoFrom(ctx); ok {
		return r.Versions[info.APIVersion]
	}
	return Version[T]{}
}

// rename replaces the paths of the first version in errors by those of the version.
func (v Version[T]) rename(errs field.ErrorList) {
	if len(v.Paths) == 0 {
		return
	}
	for _, err := range errs {
		err.Field = v.path(err.Field)
	}
}

// columns returns the columns of a table in the version of a request.
func (r Resource[T, L]) columns(ctx context.Context) []Column[T] {
	if columns := r.requestedVersion(ctx).Columns; columns != nil {
		return columns
	}
	return r.Columns
}
