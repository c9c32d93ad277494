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

package main

import (
	"fmt"
	"strings"

	"github.com/leat-dev/leat/pkg/convert"
)

// jobsPage returns the reference of what a conversion does with the fields of Jobs, from the tables of the converter.
func jobsPage() (string, error) {
	var b strings.Builder
	b.WriteString(header("Fields of Jobs", "This page is for you if you convert a Job or a CronJob, and look up what becomes of a field.", "the tables of pkg/convert"))
	b.WriteString("\n[Run the Jobs that you have](../how-to/run-jobs.md) shows how. [Which Jobs can be converted](jobs.md) has a survey.\n")
	verbs := map[convert.Effect]string{
		convert.Kept: "kept", convert.Converted: "becomes", convert.Refused: "**must be unset**", convert.Ignored: "ignored",
	}
	for _, table := range convert.Tables() {
		fmt.Fprintf(&b, "\n## %s\n\n| Field | |\n|---|---|\n", strings.ReplaceAll(table.Path, "[]", ""))
		for _, name := range table.Names() {
			f := table.Fields[name]
			text := verbs[f.Effect]
			switch {
			case f.Text == "":
			case f.Effect == convert.Converted:
				text += " " + f.Text
			default:
				text += ": " + f.Text
			}
			fmt.Fprintf(&b, "| `%s` | %s |\n", name, strings.ReplaceAll(text, "|", `\|`))
		}
	}
	return b.String(), nil
}
