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

package scenario

import (
	"fmt"
	"maps"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"
)

// Objects are what an informer has told of. Nothing is taken from its store: what it has not told, a controller would not
// have done.
type Objects struct {
	// Name is that of the informer, in errors.
	Name string

	mu   sync.Mutex
	now  map[string]string
	told []string
}

// Handler gives the handler to add to the informer.
func (o *Objects) Handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { o.tell("added", obj) },
		UpdateFunc: func(_, obj any) { o.tell("updated", obj) },
		DeleteFunc: func(obj any) {
			if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			o.tell("deleted", obj)
		},
	}
}

func (o *Objects) tell(what string, obj any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	object, err := meta.Accessor(obj)
	if err != nil {
		o.told = append(o.told, err.Error())
		return
	}
	name, step := object.GetName(), object.GetLabels()[Step]
	o.told = append(o.told, fmt.Sprintf("%s %s: %s", what, name, step))
	_, known := o.now[name]
	switch {
	case known == (what == "added"):
		o.told = append(o.told, "which must not be: it was told of another way before")
		o.now = map[string]string{"": "lost"}
	case what == "deleted":
		delete(o.now, name)
	default:
		if o.now == nil {
			o.now = map[string]string{}
		}
		o.now[name] = step
	}
}

// Now gives the objects that there are, as far as was told: the value of the label Step by name.
func (o *Objects) Now() map[string]string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.now)
}

// Told gives all that was told, a line each.
func (o *Objects) Told() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.told, "\n")
}
