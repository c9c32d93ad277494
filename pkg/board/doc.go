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

// Package board serves a page that shows queues, workers and sets, to one person on one machine. It reads with the
// credentials of that person, and changes nothing: for each action the page shows the command to copy.
//
// The parts are
//
//   - guard: which requests are answered at all,
//   - store: the objects of the informers, and what is counted of them,
//   - views: what a page shows, as values and rows,
//   - stream: the changes of a view, as server-sent events,
//   - output: the output of commands.
//
// The browser gets only what its view shows, and of that only what has changed.
package board
