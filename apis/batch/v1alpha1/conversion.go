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
	"fmt"
	"net/url"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/conversion"
)

// Convert_url_Values_To_v1alpha1_TaskLogOptions parses the parameters of a query. Its errors name the parameter, which
// those of the generated conversion do not. As elsewhere in Kubernetes, it uses the first value of a parameter, ignores
// unknown parameters, and a bool is false if it is absent, "0" or "false".
func Convert_url_Values_To_v1alpha1_TaskLogOptions(in *url.Values, out *TaskLogOptions, s conversion.Scope) error {
	if err := checkWholeNumbers(in, "sinceSeconds", "tailLines", "limitBytes", "attempt"); err != nil {
		return err
	}
	if text := in.Get("sinceTime"); text != "" {
		if _, err := time.Parse(time.RFC3339, text); err != nil {
			return fmt.Errorf("sinceTime=%q: must be a time as RFC 3339 writes it, like 2006-01-02T15:04:05Z", text)
		}
	}
	return autoConvert_url_Values_To_v1alpha1_TaskLogOptions(in, out, s)
}

// Convert_url_Values_To_v1alpha1_TaskRecordOptions parses the parameters of a query. Its errors name the parameter.
func Convert_url_Values_To_v1alpha1_TaskRecordOptions(in *url.Values, out *TaskRecordOptions, s conversion.Scope) error {
	if err := checkWholeNumbers(in, "limit"); err != nil {
		return err
	}
	return autoConvert_url_Values_To_v1alpha1_TaskRecordOptions(in, out, s)
}

// Convert_url_Values_To_v1alpha1_WorkerArchiveOptions parses the parameters of a query. Its errors name the parameter.
func Convert_url_Values_To_v1alpha1_WorkerArchiveOptions(in *url.Values, out *WorkerArchiveOptions, s conversion.Scope) error {
	if err := checkWholeNumbers(in, "segment"); err != nil {
		return err
	}
	return autoConvert_url_Values_To_v1alpha1_WorkerArchiveOptions(in, out, s)
}

// checkWholeNumbers returns an error for a parameter that is not a whole number. Parameters may be absent.
func checkWholeNumbers(in *url.Values, names ...string) error {
	for _, name := range names {
		if !in.Has(name) {
			continue
		}
		if _, err := strconv.ParseInt(in.Get(name), 10, 64); err != nil {
			return fmt.Errorf("%s=%q: must be a whole number", name, in.Get(name))
		}
	}
	return nil
}
