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

package board

import (
	"context"
	"errors"
	"html/template"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// redirect is the page that leads to the address.
var redirect = template.Must(template.New("").Parse(`<!doctype html>
<meta charset="utf-8"><meta name="referrer" content="no-referrer"><meta http-equiv="refresh" content="0;url={{.}}">
<title>Leat</title><a href="{{.}}">Leat</a>
`))

// Open opens the address in the browser of the person. All users of a machine can see the arguments of a process, so
// the browser gets the name of a file that redirects, which only this user can read. The file is removed when the page
// has been read, or when Serve ends.
func (b *Board) Open(ctx context.Context, address string) error {
	file, err := writeRedirect(address)
	if err != nil {
		return err
	}
	b.opened.Go(func() {
		select {
		case <-b.read:
		case <-ctx.Done():
		}
		_ = os.RemoveAll(filepath.Dir(file))
	})
	name, args := "xdg-open", []string{file}
	switch runtime.GOOS {
	case "darwin":
		name = "open"
	case "windows":
		name, args = "rundll32", []string{"url.dll,FileProtocolHandler", file}
	}
	// It may run as long as the browser.
	command := exec.Command(name, args...)
	if err := command.Start(); err != nil {
		return err
	}
	b.browser.Go(func() { _ = command.Wait() })
	return nil
}

// writeRedirect returns the name of a file that redirects to the address. It is alone in its directory.
func writeRedirect(address string) (string, error) {
	dir, err := os.MkdirTemp("", "leat-board-")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "leat.html")
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	return file, errors.Join(redirect.Execute(out, address), out.Close())
}
