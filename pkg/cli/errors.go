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
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/leat-dev/leat/pkg/cli/sanitize"
)

// Exit codes of the program itself. Other codes are those of a task's command.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130 // 128 + SIGINT, as in shells
)

// exitError ends the program with a code. If cause is nil, the error has been reported already.
type exitError struct {
	code  int
	cause error
}

func (e *exitError) Error() string {
	if e.cause == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.cause.Error()
}

func (e *exitError) Unwrap() error { return e.cause }

// usageErrorf returns an error about the command line. Its text must name what would be accepted.
func usageErrorf(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// exit prints the error as kubectl does and returns the exit code.
func (f *factory) exit(command *cobra.Command, err error) int {
	if err == nil {
		return 0
	}
	code := exitFailed
	if coded, ok := errors.AsType[*exitError](err); ok {
		code = coded.code
		if coded.cause == nil {
			return code
		}
	}
	fmt.Fprintln(f.streams.ErrOut, f.describe(err))
	if code == exitUsage && command != nil {
		fmt.Fprintf(f.streams.ErrOut, "See '%s --help'.\n", command.CommandPath())
	}
	return code
}

// describe formats an error for the user, with a remedy for known causes. It removes control characters: an error may
// have the last lines of a command.
func (f *factory) describe(err error) string { return sanitize.Text(f.remedy(err)) }

func (f *factory) remedy(err error) string {
	server := "the server"
	if f.host != "" {
		server = "the server " + f.host
	}
	var status apierrors.APIStatus
	isStatus := errors.As(err, &status)
	switch {
	case errors.Is(err, errNoCluster):
		return fmt.Sprintf("error: %s: run `%s up`, or set KUBECONFIG", err, f.program)
	case isStatus && apierrors.IsNotFound(err) && status.Status().Details != nil && status.Status().Details.Name == "" && f.host != "":
		return fmt.Sprintf("error: %s does not serve batch.leat.dev: Leat is not installed there, or KUBECONFIG, --kubeconfig or --context names another cluster than you mean", server)
	case isStatus && status.Status().Reason != "":
		return fmt.Sprintf("Error from server (%s): %s", status.Status().Reason, err)
	case unreachable(err):
		return fmt.Sprintf("error: %s cannot be reached: %s: is it running? `%s up` starts one on this machine, and KUBECONFIG or --kubeconfig names another",
			server, rootCause(err), f.program)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("error: %s has not answered in time", server)
	}
	return "error: " + err.Error()
}

// unreachable reports whether the error means that no connection to the server could be made or kept.
func unreachable(err error) bool {
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return true
	}
	_, dns := errors.AsType[*net.DNSError](err)
	return dns || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, io.EOF)
}

// rootCause returns the text of the error without the request that failed.
func rootCause(err error) string {
	if request, ok := errors.AsType[*url.Error](err); ok {
		err = request.Err
	}
	return err.Error()
}

// flagError converts an error of pflag to a usage error that names what would be accepted.
func (f *factory) flagError(command *cobra.Command, err error) error {
	if errors.Is(err, pflag.ErrHelp) {
		return err
	}
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		return usageErrorf("%s", f.unknownFlag(command, unknown))
	}
	if missing, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		flag := missing.GetFlag()
		return usageErrorf("--%s needs a value: %s", flag.Name, flag.Usage)
	}
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		flag := invalid.GetFlag()
		want := flag.Usage
		switch flag.Value.Type() {
		case "duration":
			want = "write a number with its unit, like 90s, 10m or 2h"
		case "int", "int32", "int64":
			want = "write a whole number"
		case "bool":
			want = "write true or false, or the flag alone"
		}
		return usageErrorf("--%s %q: %s", flag.Name, invalid.GetValue(), want)
	}
	return &exitError{exitUsage, err}
}

func (f *factory) unknownFlag(command *cobra.Command, unknown *pflag.NotExistError) string {
	name := unknown.GetSpecifiedName()
	text := "unknown flag --" + name
	if shorthands := unknown.GetSpecifiedShortnames(); shorthands != "" {
		text = "unknown flag -" + name
		if len(shorthands) > 1 {
			text += " in -" + shorthands
		}
		// pflag reads a long flag with a single dash as several shorthands.
		if long := shorthands; len(long) > 1 && command.Flags().Lookup(long) != nil {
			return text + fmt.Sprintf("; did you mean --%s?", long)
		}
	} else if near := nearestFlag(command.Flags(), name); near != "" {
		return text + fmt.Sprintf("; did you mean --%s?", near)
	}
	if strings.Contains(command.Use, "-- ") {
		text += fmt.Sprintf("; write -- before the command to run: %s [flags] -- command -its-own-flags", command.CommandPath())
	}
	return text
}

// nearestFlag returns the name of the flag that was probably meant, or "".
func nearestFlag(flags *pflag.FlagSet, name string) string {
	best, bestDistance := "", 3
	flags.VisitAll(func(flag *pflag.Flag) {
		if flag.Hidden {
			return
		}
		d := distance(name, flag.Name)
		if len(name) > 2 && strings.HasPrefix(flag.Name, name) {
			d = 1
		}
		if d < bestDistance && d < len(flag.Name)/2+1 {
			best, bestDistance = flag.Name, d
		}
	})
	return best
}

// distance returns the Levenshtein distance of two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j]+1, row[j+1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
