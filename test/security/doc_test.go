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

// Package security attacks real servers on the wire.
//
// The access_ files try to do what the requester may not do: under another identity, on other spellings of a path, over
// upgraded connections, with names that share a prefix, and with files and logs that others can read.
//
// The limits_ files send requests that are too large, too deep or too many. The server must answer each with an error
// that names the limit, within a budget of CPU time and memory. It must store nothing and serve others meanwhile.
package security
