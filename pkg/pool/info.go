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

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
)

// AnnotationPatch is the patch of the StatefulSet that "leat pool create --from" was called with, in JSON. The pool is
// rewritten with it when the ConfigMap leat-info changes.
const AnnotationPatch = "batch.leat.dev/pool-patch"

// InfoHash returns the value of AnnotationInfoHash for the data of the ConfigMap leat-info.
func InfoHash(data map[string]string) string {
	hash := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(data)) {
		fmt.Fprintf(hash, "%q=%q\n", key, data[key])
	}
	return hex.EncodeToString(hash.Sum(nil)[:8])
}
