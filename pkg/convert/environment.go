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

package convert

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/tools/clientcmd"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// completionIndex is the variable of an Indexed Job with the index, which tasks of a set have too.
const completionIndex = "JOB_COMPLETION_INDEX"

// taskVariables are variables that each task has in place of those of its container.
var taskVariables = []string{"TASK_NAME", "TASK_NAMESPACE", "TASK_ATTEMPT", "TASK_PROGRESS_FILE"}

// variable is a variable of the container with the command.
type variable struct {
	// text is the value as the env of a task expresses it: "$" is "$$", and the index a reference.
	text string
	// unknown is the source of a value that only the pod knows. It is empty if text is the value.
	unknown string
	// perTask means that the value depends on the task or the set, so that the pods of a pool cannot have it.
	perTask bool
}

// environment returns the variables that tasks need beside those of their worker: those to which the command refers,
// those that the pods of a pool cannot have, and KUBECONFIG, which tasks do not inherit.
func (c *jobConverter) environment(container *corev1.Container, path *field.Path) []batch.EnvVar {
	variables := c.variables(container, path)
	needed := map[string]bool{}
	for i, e := range container.Env {
		v, path := variables[e.Name], path.Child("env").Index(i)
		needed[e.Name] = v.perTask || e.Name == clientcmd.RecommendedConfigPathEnvVar
		switch {
		case slices.Contains(taskVariables, e.Name):
			c.errs = append(c.errs, field.Invalid(path.Child("name"), e.Name, "each task has its own variable of this name: use another"))
		case needed[e.Name] && v.unknown != "":
			c.errs = append(c.errs, field.Invalid(path, e.Name, "tasks do not inherit it, and its value is from "+v.unknown+": let the command set it"))
		}
	}
	for _, texts := range []struct {
		path   *field.Path
		values []string
	}{{path.Child("command"), container.Command}, {path.Child("args"), container.Args}} {
		for i, text := range texts.values {
			for _, name := range references(text) {
				v, ok := variables[name]
				if !ok {
					v.unknown = c.undeclared(name, container)
				}
				if v.unknown != "" {
					c.errs = append(c.errs, field.Invalid(texts.path.Index(i), "$("+name+")", fmt.Sprintf(
						"only the command knows the value, which is from %s: have a shell read it, as in sh -c 'exec PROGRAM \"$%s\"'", v.unknown, name)))
				}
				needed[name] = needed[name] || ok
			}
		}
	}
	var env []batch.EnvVar
	for _, e := range container.Env {
		if needed[e.Name] {
			env = append(env, batch.EnvVar{Name: e.Name, Value: variables[e.Name].text})
			needed[e.Name] = false
		}
	}
	return env
}

// variables returns the variables in the env of a container. As in the kubelet, a value can refer to the variables
// before it, and the last of several entries for a name counts.
func (c *jobConverter) variables(container *corev1.Container, path *field.Path) map[string]variable {
	variables := map[string]variable{}
	for i, e := range container.Env {
		path := path.Child("env").Index(i).Child("valueFrom")
		switch from := e.ValueFrom; {
		case from == nil:
			variables[e.Name] = c.compose(e.Value, variables, container)
		case from.FieldRef != nil:
			variables[e.Name] = c.fromField(from.FieldRef, path)
		case from.SecretKeyRef != nil:
			variables[e.Name] = variable{unknown: "Secret " + from.SecretKeyRef.Name}
		case from.ConfigMapKeyRef != nil:
			variables[e.Name] = variable{unknown: "ConfigMap " + from.ConfigMapKeyRef.Name}
		default:
			variables[e.Name] = variable{unknown: path.String()}
		}
	}
	return variables
}

// fromField returns a variable with a field of the pod.
func (c *jobConverter) fromField(ref *corev1.ObjectFieldSelector, path *field.Path) variable {
	indexed := c.spec.CompletionMode != nil && *c.spec.CompletionMode == batchv1.IndexedCompletion
	switch jobField(ref.FieldPath) {
	case indexOfJob:
		if !indexed {
			return variable{perTask: true}
		}
		return variable{text: "$(" + completionIndex + ")", perTask: true}
	case nameOfJob:
		if c.meta.Name != "" {
			return variable{text: escape(c.meta.Name), perTask: true}
		}
	case "":
		return variable{unknown: "the field " + ref.FieldPath + " of the pod"}
	}
	c.checkFieldRef(ref, path.Child("fieldRef"))
	return variable{perTask: true}
}

// What the Job controller writes into the labels and annotations of its pods.
const (
	indexOfJob = "completion index"
	nameOfJob  = "name of a Job"
	uidOfJob   = "UID of a Job"
)

// jobField returns what of a Job is in a field of its pods, or "" if the Job controller does not set it.
func jobField(fieldPath string) string {
	_, key, _ := strings.Cut(fieldPath, "['")
	switch strings.TrimSuffix(key, "']") {
	case batchv1.JobCompletionIndexAnnotation:
		return indexOfJob
	case batchv1.JobNameLabel, "job-name":
		return nameOfJob
	case batchv1.ControllerUidLabel, "controller-uid":
		return uidOfJob
	}
	return ""
}

// compose returns a variable with a text that can refer to others.
func (c *jobConverter) compose(text string, variables map[string]variable, container *corev1.Container) variable {
	var composed variable
	composed.text = expand(text, func(name string) string {
		v, ok := variables[name]
		if !ok {
			v = variable{text: escape("$(" + name + ")"), unknown: c.undeclared(name, container)}
		}
		if composed.unknown == "" {
			composed.unknown = v.unknown
		}
		composed.perTask = composed.perTask || v.perTask
		return v.text
	})
	return composed
}

var (
	// variableName is the form of the names of most variables. Other references are mostly commands of a shell, like
	// $(date).
	variableName = regexp.MustCompile(`^[A-Z_][A-Z0-9_]*$`)
	// serviceVariable is the form of the names of variables for Services.
	serviceVariable = regexp.MustCompile(`^[A-Z][A-Z0-9_]*_SERVICE_(HOST|PORT)(_[A-Z0-9_]+)?$`)
)

// undeclared returns where the value of a variable that env does not declare may come from, or "" if there is no such
// variable, so that a reference to it stays as it is.
func (c *jobConverter) undeclared(name string, container *corev1.Container) string {
	switch {
	case name == completionIndex || !variableName.MatchString(name):
		return ""
	case len(container.EnvFrom) > 0:
		return "envFrom"
	case serviceVariable.MatchString(name):
		return "a Service"
	}
	return ""
}

// references returns the names of the variables to which a text refers.
func references(text string) []string {
	var names []string
	expand(text, func(name string) string {
		names = append(names, name)
		return ""
	})
	return names
}

// expand replaces the references $(NAME) in a text as the kubelet does, where $$ is a single $. It returns the text as
// env of a task expresses it, and so must the function.
func expand(text string, value func(name string) string) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "$")
		b.WriteString(before)
		switch {
		case !found:
			return b.String()
		case strings.HasPrefix(rest, "$"):
			b.WriteString("$$")
			text = rest[1:]
		case strings.HasPrefix(rest, "(") && strings.Contains(rest, ")"):
			name, after, _ := strings.Cut(rest[1:], ")")
			b.WriteString(value(name))
			text = after
		default:
			b.WriteString("$$")
			text = rest
		}
	}
}

// escape returns a text as env of a task expresses it.
func escape(text string) string { return strings.ReplaceAll(text, "$", "$$") }
