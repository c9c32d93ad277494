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

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// latestName stands for the task or set that this user created last. A file on this machine records it for each server
// and namespace: the server does not know who created an object, and would have to list all of them.
const latestName = "@latest"

// latestFile returns the path of that file.
func latestFile() (string, error) {
	base, err := baseDirectory("XDG_STATE_HOME", ".local", "state")
	return filepath.Join(base, "latest.json"), err
}

// readLatest returns the recorded names by latestKey and the path of the file. Without a file the map is empty.
func readLatest() (map[string]string, string, error) {
	file, err := latestFile()
	if err != nil {
		return nil, "", err
	}
	latest := map[string]string{}
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return latest, file, nil
	}
	if err != nil {
		return nil, "", err
	}
	if err := json.Unmarshal(content, &latest); err != nil {
		return nil, "", fmt.Errorf("%s: %w: delete it", file, err)
	}
	return latest, file, nil
}

func (s *session) latestKey() string { return s.host + " " + s.namespace }

// remember records the object that @latest stands for.
func (s *session) remember(r ref) error {
	latest, file, err := readLatest()
	if err != nil {
		return err
	}
	latest[s.latestKey()] = r.String()
	content, err := json.MarshalIndent(latest, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	// Replace the file atomically: another leat may read or write it now.
	temporary, err := os.CreateTemp(filepath.Dir(file), "latest-*")
	if err != nil {
		return err
	}
	_, err = temporary.Write(content)
	if err := errors.Join(err, temporary.Close()); err != nil {
		return errors.Join(err, os.Remove(temporary.Name()))
	}
	return os.Rename(temporary.Name(), file)
}

// latest returns the name that @latest stands for on this server in this namespace.
func (s *session) latest() (ref, error) {
	latest, _, err := readLatest()
	if err != nil {
		return ref{}, fmt.Errorf("%s: %w", latestName, err)
	}
	text, ok := latest[s.latestKey()]
	if !ok {
		return ref{}, fmt.Errorf("%s: no task or set was created from this machine in namespace %q of %s yet: write a name, as listed by kubectl get tks,tk", latestName, s.namespace, s.host)
	}
	return parseRef(text)
}
