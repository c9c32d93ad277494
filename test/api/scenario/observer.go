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

// Observer tracks objects by the events of an informer. It does not read the informer's store: a controller acts only
// on events. It is safe for concurrent use.
type Observer struct {
	// Name is the name of the informer in errors.
	Name string

	mu      sync.Mutex
	objects map[string]string
	events  []string
}

// Handler returns the event handler to add to the informer.
func (o *Observer) Handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { o.record("added", obj) },
		UpdateFunc: func(_, obj any) { o.record("updated", obj) },
		DeleteFunc: func(obj any) {
			if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			o.record("deleted", obj)
		},
	}
}

func (o *Observer) record(what string, obj any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	object, err := meta.Accessor(obj)
	if err != nil {
		o.events = append(o.events, err.Error())
		return
	}
	name, step := object.GetName(), object.GetLabels()[Step]
	o.events = append(o.events, fmt.Sprintf("%s %s: %s", what, name, step))
	_, known := o.objects[name]
	switch {
	case known == (what == "added"):
		o.events = append(o.events, "unexpected: the previous event of this object does not allow this one")
		o.objects = map[string]string{"": "inconsistent events"}
	case what == "deleted":
		delete(o.objects, name)
	default:
		if o.objects == nil {
			o.objects = map[string]string{}
		}
		o.objects[name] = step
	}
}

// Objects returns the objects that exist according to the events: the value of the label Step by name.
func (o *Observer) Objects() map[string]string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.objects)
}

// Events returns all events, one a line.
func (o *Observer) Events() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.events, "\n")
}
