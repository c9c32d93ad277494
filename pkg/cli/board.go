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
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/pkg/board"
)

const boardLong = `Serve a page that shows queues, workers and sets, and why tasks wait.

The page reads with your credentials, and changes nothing: for each action it shows the command to copy. It is served on this machine
only, until Ctrl-C. The address has a random part, which is the key to all that you may read: do not share it.

Unless --all-namespaces is given, the page shows the namespace of -n or of your kubeconfig.`

func (f *factory) newBoardCommand() *cobra.Command {
	var allNamespaces, open bool
	port := 0
	command := &cobra.Command{
		Use: "board", GroupID: groupLook,
		Short: "Serve a page that shows queues, workers and sets",
		Long:  boardLong,
		Example: `  leat board --open
  leat board --all-namespaces --port 8080`,
		Args: noArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if port < 0 || port > 65535 {
				return usageErrorf("--port %d: write a port, or 0 for any that is free", port)
			}
			ctx, stop := signal.NotifyContext(command.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return f.serveBoard(ctx, allNamespaces, port, open)
		},
	}
	flags := command.Flags()
	flags.BoolVarP(&allNamespaces, "all-namespaces", "A", false, "Show all namespaces")
	flags.IntVar(&port, "port", 0, "The port to serve at; 0 for any that is free")
	flags.BoolVar(&open, "open", false, "Open the page in your browser")
	return command
}

// serveBoard serves the page until ctx ends.
func (f *factory) serveBoard(ctx context.Context, allNamespaces bool, port int, open bool) error {
	s, err := f.connect()
	if err != nil {
		return err
	}
	config, err := f.flags.ToRESTConfig()
	if err != nil {
		return err
	}
	config.QPS, config.UserAgent = -1, userAgent()
	options := board.Options{Config: config, Namespace: s.namespace, Program: f.program, Explain: f.explainTo(s)}
	if allNamespaces {
		options.Namespace = metav1.NamespaceAll
	}
	page, err := board.New(ctx, options)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("--port %d: %w: leave it out for any that is free", port, err)
	}
	token := board.NewToken()
	address := fmt.Sprintf("http://%s/%s/", listener.Addr(), token)
	fmt.Fprintf(f.streams.Out, "%s\n", address)
	fmt.Fprintln(f.streams.ErrOut, "Keep this address to yourself: with it, others on this machine can read what you may read. Ctrl-C ends it.")
	if open {
		if err := page.Open(ctx, address); err != nil {
			fmt.Fprintf(f.streams.ErrOut, "The browser cannot be opened: %v: copy the address.\n", err)
		}
	}
	return page.Serve(ctx, listener, token)
}

// explainTo returns a function that writes what "explain" prints of a task or a set in any namespace.
func (f *factory) explainTo(s *session) func(ctx context.Context, namespace, name string, out io.Writer) error {
	return func(ctx context.Context, namespace, name string, out io.Writer) error {
		there := *s
		there.namespace = namespace
		found, err := there.find(ctx, name)
		if err != nil {
			return err
		}
		return f.explain(ctx, &there, found, out)
	}
}
