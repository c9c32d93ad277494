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
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

// newInstallCommand returns the command with which an init container copies the worker for a container of another
// image.
func newInstallCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "install DIRECTORY",
		Short: "Copy this program into a directory",
		Long: `Copy this program into a directory, as leat-worker.

To run a worker in a container of any image, let an init container of this image copy the program into a volume that both
containers share. The program is linked statically and needs nothing of the other image.`,
		Example: `  leat-worker install /opt/leat`,
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return install(args[0])
		},
	}
}

// install copies this program. It replaces an earlier copy atomically, which may be running.
func install(dir string) error {
	path, err := os.Executable()
	if err != nil {
		return err
	}
	program, err := os.Open(path)
	if err != nil {
		return err
	}
	defer program.Close()
	copied, err := os.CreateTemp(dir, ".leat-worker-*")
	if err != nil {
		return fmt.Errorf("%w: use a directory that can be written to", err)
	}
	defer os.Remove(copied.Name())
	_, err = io.Copy(copied, program)
	if err := errors.Join(err, copied.Chmod(0o755), copied.Close()); err != nil {
		return err
	}
	return os.Rename(copied.Name(), filepath.Join(dir, "leat-worker"))
}
