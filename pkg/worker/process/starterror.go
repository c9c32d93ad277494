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

package process

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// shebangSize is how many bytes of a file Linux reads to find the interpreter of a script.
const shebangSize = 256

// StartError is the error of a command that cannot be started. Its text names the program, the directory and, if the
// program was looked up there, the PATH.
type StartError struct {
	ExitCode int32 // that of a shell: 127 for not found, 126 for not executable
	Err      error
}

// Error implements error.
func (e *StartError) Error() string { return e.Err.Error() }

// Unwrap returns the underlying error.
func (e *StartError) Unwrap() error { return e.Err }

// newStartError returns the startError of a command that cannot be started because of err.
func newStartError(c Command, err error) *StartError {
	exitCode, dir := int32(126), c.Dir
	if dir == "" {
		dir, _ = os.Getwd()
	}
	program := c.Argv[0]
	switch {
	case errors.Is(err, exec.ErrNotFound):
		exitCode = 127
		err = fmt.Errorf("no such program on the PATH of the worker, %q", os.Getenv("PATH"))
	case errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errWorkingDir):
		exitCode = 127
		if interpreter := missingInterpreter(program, dir); interpreter != "" {
			err = fmt.Errorf("%w: it needs %s", err, interpreter)
		}
	case errors.Is(err, unix.ENOEXEC):
		err = fmt.Errorf("%w: it is neither a program for %s/%s nor a script with a #! line", err, runtime.GOOS, runtime.GOARCH)
	}
	return &StartError{exitCode, fmt.Errorf("cannot start %q in directory %q: %w", program, dir, err)}
}

// errWorkingDir is wrapped by errors about the working directory.
var errWorkingDir = errors.New("workingDir")

// checkDir returns an error unless a command can be started in dir.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errWorkingDir, err)
	case !info.IsDir():
		return fmt.Errorf("%w: %s is not a directory", errWorkingDir, dir)
	}
	return nil
}

// missingInterpreter describes the interpreter or dynamic linker without which a program that exists cannot start. It
// returns "" if the program does not exist, or if it needs neither.
func missingInterpreter(program, dir string) string {
	if !strings.Contains(program, "/") {
		found, err := exec.LookPath(program)
		if err != nil {
			return ""
		}
		program = found
	}
	if !filepath.IsAbs(program) {
		program = filepath.Join(dir, program)
	}
	file, err := os.Open(program)
	if err != nil {
		return ""
	}
	defer file.Close()
	head := make([]byte, shebangSize)
	n, _ := io.ReadFull(file, head)
	if line, ok := bytes.CutPrefix(head[:n], []byte("#!")); ok {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		interpreter, _, _ := strings.Cut(strings.Trim(string(line), " \t"), " ")
		if strings.HasSuffix(interpreter, "\r") {
			return fmt.Sprintf("the interpreter %q, since its lines end as on Windows: convert it, as by dos2unix", interpreter)
		}
		return fmt.Sprintf("the interpreter %q, which does not exist", interpreter)
	}
	binary, err := elf.NewFile(file)
	if err != nil {
		return ""
	}
	for _, segment := range binary.Progs {
		if segment.Type == elf.PT_INTERP && segment.Filesz <= unix.PathMax {
			linker, _ := io.ReadAll(segment.Open())
			return fmt.Sprintf("the dynamic linker %q, which does not exist", bytes.TrimRight(linker, "\x00"))
		}
	}
	return ""
}
