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

import (
	"math"
	"time"
)

// Seconds returns n seconds as a duration. It limits n to ±2147483647, because the product would overflow. Stored
// fields can exceed this limit.
func Seconds(n int64) time.Duration {
	return time.Duration(max(-math.MaxInt32, min(n, math.MaxInt32))) * time.Second
}
