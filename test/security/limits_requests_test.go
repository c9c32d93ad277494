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

package security

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
)

const (
	jsonType       = "application/json"
	yamlType       = "application/yaml"
	protobufType   = "application/vnd.kubernetes.protobuf"
	tableType      = "application/json;as=Table;g=meta.k8s.io;v=v1"
	jsonPatchType  = "application/json-patch+json"
	mergePatchType = "application/merge-patch+json"
	applyType      = "application/apply-patch+yaml"
	strategicType  = "application/strategic-merge-patch+json"
)

// attack is a request with the answer that it must get.
type attack struct {
	request
	code int
	// says has parts of the answer, which name the limit or the accepted values.
	says []string
}

// attacks returns requests that are refused or do not change anything. NAMESPACE in a path stands for a namespace with
// a task "target".
var attacks = sync.OnceValue(func() map[string]attack {
	const tasks, target = groupPath + "/namespaces/NAMESPACE/tasks", groupPath + "/namespaces/NAMESPACE/tasks/target"
	post := func(contentType string, body []byte) request {
		return request{method: http.MethodPost, path: tasks, contentType: contentType, body: body}
	}
	patch := func(contentType, body string) request {
		path := target
		if contentType == applyType {
			path += "?fieldManager=attacker&force=true"
		}
		return request{method: http.MethodPatch, path: path, contentType: contentType, body: []byte(body)}
	}
	dry := func(r request) request {
		separator := "?"
		if strings.Contains(r.path, separator) {
			separator = "&"
		}
		r.path += separator + "dryRun=All"
		return r
	}
	list := func(query string) request { return request{path: tasks + "?" + query} }
	deep := func(open, inner, close string, n int) string {
		return strings.Repeat(open, n) + inner + strings.Repeat(close, n)
	}
	const many = 50_000
	values := func(form, separator string, n int) string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprintf(form, i)
		}
		return strings.Join(all, separator)
	}
	repeated := func(item, separator string, n int) string { return strings.Repeat(item+separator, n-1) + item }
	token := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

	deepObject, deepList := deep(`{"a":`, "1", "}", 100_000), deep("[", "", "]", 100_000)
	large := bytes.Repeat([]byte("a"), 3<<20+1)
	return map[string]attack{
		// Size of the body.
		"a body of more than 3 MiB":         {post(jsonType, large), 413, []string{"limit is 3145728"}},
		"a body of unknown length":          {func() request { r := post(jsonType, large); r.chunked = true; return r }(), 413, []string{"limit is 3145728"}},
		"a PUT of more than 3 MiB":          {request{method: http.MethodPut, path: target, contentType: jsonType, body: large}, 413, []string{"limit is 3145728"}},
		"a patch of more than 3 MiB":        {patch(mergePatchType, string(large)), 413, []string{"limit is 3145728"}},
		"an apply patch of more than 3 MiB": {patch(applyType, string(large)), 413, []string{"limit is 3145728"}},
		"DeleteOptions of more than 3 MiB":  {request{method: http.MethodDelete, path: target, contentType: jsonType, body: large}, 413, []string{"limit is 3145728"}},
		"DeleteOptions for many, of 3 MiB":  {request{method: http.MethodDelete, path: tasks, contentType: jsonType, body: large}, 413, []string{"limit is 3145728"}},
		"an object larger than etcd's":      {post(jsonType, []byte(taskWith(`"args":["`+strings.Repeat("a", 2<<20)+`"]`))), 422, []string{"at most 1048576 bytes together"}},
		"managers of 90,000 fields":         {post(jsonType, []byte(withMeta(`"managedFields":[{"manager":"m","operation":"Update","apiVersion":"batch.leat.dev/v1alpha1","fieldsType":"FieldsV1","fieldsV1":{`+values(`"f:metadata%06d":{}`, ",", 90_000)+`}}]`))), 413, []string{"an object in the body has more than 10000 fields"}},
		"annotations of 2 MiB":              {post(jsonType, []byte(withMeta(`"annotations":{"a":"`+strings.Repeat("a", 2<<20)+`"}`))), 422, []string{"metadata.annotations: Too long: may not be more than 262144 bytes"}},
		"finalizers of 2 MiB":               {post(jsonType, []byte(withMeta(`"finalizers":[`+values(`"example.com/%020d"`, ",", 60_000)+`]`))), 413, []string{"a list in the body has more than 10000 items: metadata.finalizers"}},
		"a task of 1.6 MiB": {post(jsonType, []byte(`{"metadata":{"name":"attack","annotations":{"a":"`+strings.Repeat("a", 250_000)+`"},"finalizers":[`+
			values(`"example.com/%050d"`, ",", 7_000)+`]},"spec":{"command":["`+strings.Repeat("a", 1_000_000)+`"]}}`)), 413, []string{"does not fit into etcd, which accepts 1.5 MiB"}},
		"a name of 1 MiB":        {post(jsonType, []byte(`{"metadata":{"name":"`+strings.Repeat("a", 1<<20)+`"},"spec":{"command":["true"]}}`)), 422, []string{"metadata.name: Invalid value"}},
		"a name of nearly 3 MiB": {post(jsonType, []byte(`{"metadata":{"name":"`+strings.Repeat("a", 3<<20-1000)+`"},"spec":{"command":["true"]}}`)), 413, []string{"a string in the body has more than 2097152 bytes"}},

		// Many small items in a body that is just small enough.
		"a million arguments":        {post(jsonType, []byte(taskWith(`"args":[`+repeated(`""`, ",", 1_000_000)+`]`))), 413, []string{"a list in the body has more than 100000 items: spec.args"}},
		"700,000 owners":             {post(jsonType, []byte(withMeta(`"ownerReferences":[`+repeated(`{}`, ",", 700_000)+`]`))), 413, []string{"a list in the body has more than 1000 items: metadata.ownerReferences"}},
		"700,000 managers":           {post(jsonType, []byte(withMeta(`"managedFields":[`+repeated(`{}`, ",", 700_000)+`]`))), 413, []string{"a list in the body has more than 1000 items: metadata.managedFields"}},
		"700,000 tolerations":        {post(jsonType, []byte(taskWith(`"tolerations":[`+repeated(`{}`, ",", 700_000)+`]`))), 413, []string{"a list in the body has more than 10000 objects"}},
		"200,000 labels":             {post(jsonType, []byte(withMeta(`"labels":{`+values(`"%06d":""`, ",", 200_000)+`}`))), 413, []string{"an object in the body has more than 10000 fields"}},
		"200,000 unknown fields":     {post(jsonType, []byte(taskWith(values(`"%06d":0`, ",", 200_000)))), 413, []string{"an object in the body has more than 10000 fields"}},
		"a field 150,000 times":      {post(jsonType, []byte(taskWith(values(`"priority":1%05d`, ",", 150_000)))), 413, []string{"an object in the body has more than 10000 fields"}},
		"300,000 fields and items":   {post(jsonType, []byte(taskWith(`"x":[`+repeated("["+repeated("1", ",", 30_000)+"]", ",", 10)+`]`))), 413, []string{"the body has more than 200000 fields and items"}},
		"a million items in YAML":    {post(yamlType, []byte("metadata: {name: attack}\nspec: {command: ["+repeated("a", ",", 1_000_000)+"]}")), 413, []string{"YAML of more than 262144 bytes: send JSON"}},
		"600,000 lines of YAML":      {post(yamlType, []byte("metadata: {name: attack}\nspec:\n command:\n"+repeated(" - a", "\n", 600_000))), 413, []string{"YAML of more than 262144 bytes: send JSON"}},
		"a million items in applied": {patch(applyType, applied("spec: {command: ["+repeated("a", ",", 1_000_000)+"]}")), 413, []string{"YAML of more than 262144 bytes: send JSON"}},

		// Depth.
		"JSON 100,000 deep":                 {post(jsonType, []byte(taskWith(`"x":`+deepObject))), 413, []string{"nested more than 100 deep"}},
		"JSON lists 100,000 deep":           {post(jsonType, []byte(taskWith(`"command":`+deepList))), 413, []string{"nested more than 100 deep"}},
		"JSON 100,000 deep and never ended": {post(jsonType, []byte(strings.Repeat("[", 100_000))), 413, []string{"nested more than 100 deep"}},
		"YAML 100,000 deep":                 {post(yamlType, []byte("spec: "+deepList)), 400, []string{"exceeded max depth of 10000"}},
		"YAML blocks 100,000 deep":          {post(yamlType, []byte(strings.Repeat("- ", 100_000))), 400, []string{"exceeded max depth of 10000"}},
		"a merge patch 100,000 deep":        {patch(mergePatchType, `{"spec":{"x":`+deepObject+`}}`), 413, []string{"nested more than 100 deep"}},
		"a merge patch 9,000 deep":          {patch(mergePatchType, `{"spec":{"x":`+deep(`{"a":`, "1", "}", 9_000)+`}}`), 413, []string{"nested more than 100 deep"}},
		"a JSON patch 100,000 deep":         {patch(jsonPatchType, `[{"op":"add","path":"/spec/x","value":`+deepObject+`}]`), 413, []string{"nested more than 100 deep"}},
		"an apply patch 100,000 deep":       {patch(applyType, applied("spec: {x: "+deepList+"}")), 400, []string{"exceeded max depth of 10000"}},
		"managed fields 9,000 deep": {post(jsonType, []byte(withMeta(`"managedFields":[{"manager":"m","operation":"Update","apiVersion":"batch.leat.dev/v1alpha1","fieldsType":"FieldsV1","fieldsV1":`+
			deep(`{"f:a":`, "{}", "}", 9_000)+`}]`))), 413, []string{"nested more than 100 deep"}},

		// Lists of objects, where one is expected.
		"a list of 10,000 tasks":         {post(jsonType, []byte(listed("TaskList", "["+repeated(taskWith(`"args":["a"]`), ",", 10_000)+"]"))), 400, []string{"TaskList"}},
		"a list of 10,001 tasks":         {post(jsonType, []byte(listed("TaskList", "["+repeated("{}", ",", 10_001)+"]"))), 413, []string{"a list in the body has more than 10000 objects"}},
		"a list of 10,000 tasks in YAML": {post(yamlType, []byte(listed("TaskList", "\n"+repeated("- spec: {command: [a]}", "\n", 10_000)))), 400, []string{"TaskList"}},
		"a List of 10,000 tasks in YAML": {post(yamlType, []byte("apiVersion: v1\nkind: List\nitems:\n"+repeated("- spec: {command: [a]}", "\n", 10_000))), 400, []string{"List"}},
		"an applied list in YAML":        {patch(applyType, listed("TaskList", "\n"+repeated("- spec: {command: [a]}", "\n", 10_000))), 400, []string{"TaskList"}},

		// Continue tokens.
		"a token of garbage":            {list("limit=1&continue=%00%ff"), 400, []string{"invalid continue token"}},
		"a token that is no object":     {list("limit=1&continue=" + token("garbage")), 400, []string{"invalid continue token"}},
		"a token of an unknown version": {list("limit=1&continue=" + token(`{"v":"v9","rv":1,"start":"a"}`)), 400, []string{"invalid continue token", "does not recognize this encoded version"}},
		"a token without revision":      {list("limit=1&continue=" + token(`{"v":"meta.k8s.io/v1","start":"a"}`)), 400, []string{"invalid continue token", "resourceVersion"}},
		"a token without start":         {list("limit=1&continue=" + token(`{"v":"meta.k8s.io/v1","rv":1}`)), 400, []string{"invalid continue token", "start key empty"}},
		"a token above its namespace":   {list("limit=1&continue=" + token(`{"v":"meta.k8s.io/v1","rv":-1,"start":"../a"}`)), 400, []string{"invalid continue token"}},
		"a token of another resource":   {list("limit=1&continue=" + token(`{"v":"meta.k8s.io/v1","rv":-1,"start":"/../../workers/a"}`)), 400, []string{"invalid continue token"}},
		"a token from the future":       {list("limit=1&continue=" + token(`{"v":"meta.k8s.io/v1","rv":9000000000000000000,"start":"a"}`)), 504, []string{"Too large resource version"}},
		"a token of 500,000 characters": {list("limit=1&continue=" + strings.Repeat("a", 500_000)), 400, []string{"invalid continue token"}},
		"a token 100,000 deep":          {list("limit=1&continue=" + token(deepList)), 400, []string{"invalid continue token"}},

		// Selectors.
		"a label selector of 50,000 values": {list("labelSelector=a+in+(" + values("%d", ",", many) + ")"), 400, []string{"labelSelector", "at most 1000 terms with 10000 values are accepted"}},
		"a label selector of 50,000 terms":  {list("labelSelector=" + values("a%d", ",", many)), 400, []string{"labelSelector", "at most 1000 terms with 10000 values are accepted"}},
		"a field selector of 40,000 terms":  {list("fieldSelector=" + values("metadata.name!=a%d", ",", 40_000)), 400, []string{"fieldSelector", "at most 1000 terms with 10000 values are accepted"}},
		"deletion by 50,000 terms":          {request{method: http.MethodDelete, path: tasks + "?labelSelector=" + values("a%d", ",", many)}, 400, []string{"at most 1000 terms with 10000 values are accepted"}},
		"a watch of 50,000 terms":           {list("watch=true&timeoutSeconds=1&labelSelector=" + values("!a%d", ",", many)), 400, []string{"at most 1000 terms with 10000 values are accepted"}},
		"a selector of 100,000 parentheses": {list("labelSelector=" + strings.Repeat("(", 100_000)), 400, []string{"found '(', expected"}},
		"a field selector of one backslash": {list("fieldSelector=" + strings.Repeat("%5c", 100_001)), 400, []string{"invalid selector"}},

		// Patches.
		"a JSON patch of 100,000 operations": {patch(jsonPatchType, "["+repeated(`{"op":"remove","path":"/a"}`, ",", 100_000)+"]"), 413, []string{"a list in the body has more than 1000 items"}},
		"a JSON patch that doubles":          {patch(jsonPatchType, `[{"op":"add","path":"/metadata/annotations","value":{"a":["`+strings.Repeat("a", 1000)+`"]}},`+repeated(`{"op":"copy","from":"/metadata/annotations/a","path":"/metadata/annotations/a/-"}`, ",", 60)+"]"), 422, []string{"the server rejected our request"}},
		"a JSON patch that doubles twice": {patch(jsonPatchType, `[{"op":"add","path":"/metadata/annotations","value":{"a":["`+strings.Repeat("a", 1000)+`"]}},`+
			repeated(`{"op":"copy","from":"/metadata/annotations/a","path":"/metadata/annotations/a/-"}`, ",", 2)+"]"), 422, []string{"patch: Invalid value"}},
		"a JSON patch of 1,000 insertions":     {patch(jsonPatchType, "["+repeated(`{"op":"add","path":"/spec/command/0","value":"a"}`, ",", 1_000)+"]"), 422, []string{"spec.command"}},
		"a JSON patch of 1,000 comparisons":    {patch(jsonPatchType, `[{"op":"add","path":"/metadata/annotations","value":{"a":"`+strings.Repeat("a", 1<<20)+`"}},`+repeated(`{"op":"test","path":"/metadata","value":{"name":"a"}}`, ",", 990)+"]"), 422, []string{"the server rejected our request"}},
		"a JSON patch far past the end":        {patch(jsonPatchType, `[{"op":"add","path":"/spec/command/2000000000","value":"a"}]`), 422, []string{"the server rejected our request"}},
		"a JSON patch with a path of 1 MiB":    {patch(jsonPatchType, `[{"op":"add","path":"`+strings.Repeat("/a", 1<<19)+`","value":"a"}]`), 422, []string{"the server rejected our request"}},
		"a merge patch of 200,000 fields":      {patch(mergePatchType, `{"spec":{`+values(`"%06d":0`, ",", 200_000)+`}}`), 413, []string{"an object in the body has more than 10000 fields"}},
		"a strategic patch of 200,000 fields":  {patch(strategicType, `{"spec":{`+values(`"%06d":0`, ",", 200_000)+`}}`), 413, []string{"an object in the body has more than 10000 fields"}},
		"a strategic patch of many directives": {patch(strategicType, `{"spec":{"tolerations":[`+values(`{"$patch":"delete","key":"%d"}`, ",", 50_000)+`]}}`), 413, []string{"a list in the body has more than 1000 items: spec.tolerations"}},
		"an apply patch of 100,000 labels":     {patch(applyType, applied("metadata: {name: target, labels: {"+values(`l%d: ""`, ", ", 100_000)+"}}")), 413, []string{"YAML of more than 262144 bytes: send JSON"}},

		// YAML.
		"a YAML bomb":                       {post(yamlType, []byte(bomb(""))), 400, []string{"excessive aliasing"}},
		"an applied YAML bomb":              {patch(applyType, bomb("apiVersion: batch.leat.dev/v1alpha1\nkind: Task\nmetadata: {name: target}\n")), 400, []string{"excessive aliasing"}},
		"a YAML of one alias 100,000 times": {patch(applyType, applied("a: &a [x,x,x,x,x,x,x,x,x,x]\nspec: {x: ["+repeated("*a", " ,", 100_000)+"]}")), 413, []string{"YAML of more than 262144 bytes: send JSON"}},
		"a YAML alias of itself":            {post(yamlType, []byte("spec: &a {x: *a}")), 400, []string{"contains itself"}},
		"a YAML of 3 MiB of one string":     {post(yamlType, []byte("spec: \""+strings.Repeat("\\x41", 3<<18-10)+"\"")), 413, []string{"YAML of more than 262144 bytes: send JSON"}},

		// Errors, names and quantities.
		"4,096 variables of one name": {post(jsonType, []byte(taskWith(`"env":[`+repeated(`{"name":"N","value":"a"}`, ",", 4096)+`]`))), 422,
			[]string{"spec.env[1].name: Duplicate value", "4079 more errors are not shown"}},
		"9,999 bad requests":              {post(jsonType, []byte(taskWith(`"resources":{"requests":{`+values(`"bad-%d":"1"`, ",", 9_999)+`}}`))), 422, []string{"9983 more errors are not shown"}},
		"10,000 bad labels":               {post(jsonType, []byte(withMeta(`"labels":{`+values(`"bad=%d":"="`, ",", 10_000)+`}`))), 422, []string{"more errors are not shown"}},
		"a quantity of 2,000,000 digits":  {post(jsonType, []byte(taskWith(`"resources":{"requests":{"cpu":"`+strings.Repeat("1", 2_000_000)+`"}}`))), 400, []string{"cpu: the quantity"}},
		"a quantity of a large exponent":  {post(jsonType, []byte(taskWith(`"resources":{"requests":{"cpu":"1e999999999"}}`))), 400, []string{"cpu: the exponent"}},
		"a patched quantity of that size": {patch(jsonPatchType, `[{"op":"add","path":"/spec/resources/requests","value":{"cpu":"1e999999999"}}]`), 422, nil},

		// The largest accepted requests, as dry runs.
		"10,000 labels": {dry(post(jsonType, []byte(withMeta(`"labels":{`+values(`"l%d":""`, ",", 10_000)+`}`)))), 201, []string{"l9999"}},
		"10,000 labels, applied": {dry(patch(applyType, `{"apiVersion":"batch.leat.dev/v1alpha1","kind":"Task","metadata":{"name":"target","labels":{`+
			values(`"l%d":""`, ",", 10_000)+`}}}`)), 200, []string{"l9999"}},
		"100,000 items": {func() request {
			r := dry(post(jsonType, []byte(`{"apiVersion":"batch.leat.dev/v1alpha1","kind":"TaskSet","metadata":{"name":"attack"},"spec":{"completionMode":"Indexed","items":[`+
				repeated(`"a"`, ",", 100_000)+`],"template":{"spec":{"command":["true"]}}}}`)))
			r.path = strings.Replace(r.path, "/tasks", "/tasksets", 1)
			return r
		}(), 201, nil},
		"65,536 arguments":               {dry(post(jsonType, []byte(taskWith(`"args":[`+repeated(`"a"`, ",", 65_536)+`]`)))), 201, nil},
		"4,096 variables":                {dry(post(jsonType, []byte(taskWith(`"env":[`+values(`{"name":"N%d","value":"a"}`, ",", 4096)+`]`)))), 201, []string{"N4095"}},
		"10,000 unknown fields, 90 deep": {dry(post(jsonType, []byte(taskWith(values(`"f%d":`+deep(`{"a":`, "1", "}", 18), ",", 9_000))))), 201, nil},
		"YAML of 256 KiB":                {dry(post(yamlType, []byte("metadata: {name: attack}\nspec: {command: [a], args: ["+repeated("a", ",", 65_536)+"]}"))), 201, nil},
		"10,000 finalizers":              {dry(post(jsonType, []byte(withMeta(`"finalizers":[`+values(`"example.com/%d"`, ",", 10_000)+`]`)))), 201, nil},
		"1,000 operations":               {dry(patch(jsonPatchType, "["+repeated(`{"op":"add","path":"/metadata/labels","value":{"a":"b"}}`, ",", 1_000)+"]")), 200, nil},

		// Encodings.
		"a compressed body":            {func() request { r := post(jsonType, compressed(large)); r.encoding = "gzip"; return r }(), 415, []string{`Content-Encoding \"gzip\": send it as it is`}},
		"a compressed body, unlabeled": {post(jsonType, compressed(large)), 400, []string{"invalid character"}},
		"protobuf garbage":             {post(protobufType, []byte("k8s\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")), 400, []string{"proto: integer overflow"}},
		"protobuf without its magic":   {post(protobufType, []byte("garbage")), 400, []string{"expected prefix"}},
		"protobuf cut short":           {post(protobufType, protobufTask()[:40]), 400, []string{"unexpected EOF"}},
		"protobuf of a huge length":    {post(protobufType, overlong()), 400, []string{"unexpected EOF"}},
		"protobuf nested for ever":     {post(protobufType, nestedGroups()), 400, []string{"unexpected EOF"}},
		"protobuf of a million owners": {post(protobufType, protobufOwners(1_400_000)), 413, []string{"a list in the body has more than 1000 items: metadata.ownerReferences"}},
		"a body of no known type":      {post("text/plain", []byte("a")), 415, []string{"accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"}},
		"a body of a type of patches":  {post(mergePatchType, []byte("{}")), 415, []string{"accepted media types include"}},
		"a patch of no known type":     {patch(jsonType, "{}"), 415, []string{"Unsupported Media Type"}},
		"an answer of no known type":   {request{path: tasks, accept: "text/html"}, 406, []string{"Available representations: application/json"}},
		"10,000 types to answer in":    {request{path: tasks, accept: values("application/x%d", ",", 10_000)}, 406, []string{"Available representations: application/json"}},

		// Addresses and headers.
		"an address of 900,000 characters": {request{path: target + strings.Repeat("a", 900_000)}, 404, []string{"not found"}},
		"an address of 2 MiB":              {request{http1: true, path: groupPath + "/" + strings.Repeat("a", 2<<20)}, 431, []string{"Request Header Fields Too Large"}},
		"a header of 2 MiB":                {request{http1: true, path: tasks, header: http.Header{"X-A": {strings.Repeat("a", 2<<20)}}}, 431, []string{"Request Header Fields Too Large"}},
		"30,000 headers":                   {request{http1: true, path: tasks, header: http.Header{"X-A": slices.Repeat([]string{"a"}, 30_000)}}, 200, []string{"TaskList"}},
		"100,000 parameters":               {list(values("a%d", "&", 100_000)), 200, []string{"TaskList"}},
	}
})

// listed returns a list with the items, in JSON or YAML.
func listed(kind, items string) string {
	if strings.HasPrefix(items, "[") {
		return `{"apiVersion":"batch.leat.dev/v1alpha1","kind":"` + kind + `","items":` + items + `}`
	}
	return "apiVersion: batch.leat.dev/v1alpha1\nkind: " + kind + "\nitems:" + items
}

// taskWith returns a task with further fields in its spec.
func taskWith(spec string) string {
	return `{"apiVersion":"batch.leat.dev/v1alpha1","kind":"Task","metadata":{"name":"attack"},"spec":{` + spec + `,"command":["true"]}}`
}

// withMeta returns a task with further fields in its metadata.
func withMeta(meta string) string {
	return `{"apiVersion":"batch.leat.dev/v1alpha1","kind":"Task","metadata":{"name":"attack",` + meta + `},"spec":{"command":["true"]}}`
}

// applied returns an apply patch of the target with further fields.
func applied(more string) string {
	if !strings.HasPrefix(more, "metadata:") {
		more = "metadata: {name: target}\n" + more
	}
	return "apiVersion: batch.leat.dev/v1alpha1\nkind: Task\n" + more
}

// bomb returns YAML whose aliases expand tenfold in each line.
func bomb(before string) string {
	b := strings.Builder{}
	b.WriteString(before + "a0: &a0 [lol,lol,lol,lol,lol,lol,lol,lol,lol,lol]\n")
	for i := range 9 {
		alias := fmt.Sprintf("*a%d", i)
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i+1, i+1, strings.Join(slices.Repeat([]string{alias}, 10), " ,"))
	}
	b.WriteString("spec: {x: *a9}\n")
	return b.String()
}

func compressed(data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(data)
	w.Close()
	return b.Bytes()
}

// protobufTask returns an encoded task in the envelope of Kubernetes protobuf.
func protobufTask() []byte {
	object := []byte{0x0a, 0x08, 0x0a, 0x06}
	return enveloped(append(append(object, "attack"...), 0x12, 0x06, 0x22, 0x04, 't', 'r', 'u', 'e'))
}

func enveloped(object []byte) []byte {
	unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "batch.leat.dev/v1alpha1", Kind: "Task"}, Raw: object}
	data, err := unknown.Marshal()
	if err != nil {
		panic(err)
	}
	return append([]byte("k8s\x00"), data...)
}

// overlong returns an encoded task whose metadata has a length of 2 GiB.
func overlong() []byte {
	return enveloped(binary.AppendUvarint([]byte{0x0a}, 2<<30))
}

// nestedGroups returns an encoded task with a million nested groups of an unknown field.
func nestedGroups() []byte { return enveloped(bytes.Repeat([]byte{0x7b}, 1_000_000)) }

// protobufOwners returns an encoded task with n empty owner references of two bytes each.
func protobufOwners(n int) []byte {
	meta := append([]byte{0x0a, 0x06}, "attack"...)
	meta = append(meta, bytes.Repeat([]byte{0x6a, 0x00}, n)...)
	object := append(binary.AppendUvarint([]byte{0x0a}, uint64(len(meta))), meta...)
	return enveloped(append(object, 0x12, 0x06, 0x22, 0x04, 't', 'r', 'u', 'e'))
}

// testRequests sends each attack.
func (s *server) testRequests(t *testing.T) {
	namespace, all := s.namespace(t), attacks()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s.testRequest(t, namespace, name, all[name])
	}
}

// testRequest sends an attack. Its answer must be as expected and within the budget, and etcd must not change.
func (s *server) testRequest(t *testing.T, namespace, name string, a attack) {
	t.Run(name, func(t *testing.T) {
		if a.code == 0 {
			t.Fatal("unknown attack")
		}
		a.path = strings.ReplaceAll(a.path, "NAMESPACE", namespace)
		before := s.revision(t)
		var got response
		c := s.measured(t, func() {
			var err error
			got, err = s.try(t.Context(), a.request)
			if err != nil {
				got.body = []byte(err.Error())
			}
		})
		t.Logf("%d: %v: %s", got.code, c, shorten(got.body))
		s.within(t, c)
		if got.code != a.code {
			t.Errorf("got %d, want %d: %s", got.code, a.code, shorten(got.body))
		}
		for _, part := range a.says {
			if !bytes.Contains(got.body, []byte(part)) {
				t.Errorf("the answer lacks %q: %s", part, shorten(got.body))
			}
		}
		if after := s.revision(t); after != before {
			t.Errorf("etcd changed: got %s, want %s", after, before)
		}
		s.answers(t)
	})
}
