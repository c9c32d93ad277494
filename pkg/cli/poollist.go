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
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/printers"
	kubescheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/pool"
)

// poolListOptions are the flags of "pool list".
type poolListOptions struct {
	*factory
	allNamespaces bool
	print         *genericclioptions.PrintFlags
}

const poolListLong = `List the pools of workers.

WORKERS are those that are ready, and COMING those whose pods have been asked for. TASKS run on the workers. PENDING are the tasks that
wait for the pool by its name; tasks that name no pool, and could run on it, are not counted.

STATE is one of:

  Idle         no task runs or waits
  Running      tasks run
  Waiting      tasks wait, and no worker is coming
  Scaling out  workers are coming; after it stands why some are not ready, like a quota, a lack of nodes, or an image
  Paused       something else scales the StatefulSet, so leat-controller-manager does not
  Invalid      annotations of the StatefulSet are wrong, so it is not scaled
  Stale        added to the others: the installation of Leat has changed; "leat pool update" writes the pool again`

func (f *factory) newPoolListCommand() *cobra.Command {
	o := &poolListOptions{factory: f, print: genericclioptions.NewPrintFlags("").WithTypeSetter(kubescheme.Scheme)}
	command := &cobra.Command{
		Use: "list", Aliases: []string{"ls"},
		Short: "List the pools of workers",
		Long:  poolListLong,
		Example: `  leat pool list
  leat pool list --all-namespaces
  leat pool list -o name`,
		Args: noArgs,
		RunE: func(command *cobra.Command, _ []string) error { return o.run(command.Context()) },
	}
	command.Flags().BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "Of all namespaces")
	o.print.AddFlags(command)
	return command
}

func (o *poolListOptions) run(ctx context.Context) error {
	format := ptr.Deref(o.print.OutputFormat, "")
	printer, err := o.print.ToPrinter()
	if err != nil {
		return &exitError{exitUsage, err}
	}
	s, err := o.connect()
	if err != nil {
		return err
	}
	if o.workersAreLocal() {
		return fmt.Errorf("this is the server of \"leat up\", which has workers of its own: pools are pods of a cluster")
	}
	c, err := s.cluster()
	if err != nil {
		return err
	}
	namespace := s.namespace
	if o.allNamespaces {
		namespace = metav1.NamespaceAll
	}
	var data map[string]string
	switch info, err := c.CoreV1().ConfigMaps(batch.SystemNamespace).Get(ctx, pool.InfoConfigMap, metav1.GetOptions{}); {
	case err == nil:
		data = info.Data
	case !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err):
		return err
	}
	all, err := s.pools(ctx, c, namespace, data)
	if err != nil {
		return err
	}
	switch {
	case format != "":
		var sets []listed
		for i := range all {
			set := all[i].set
			set.TypeMeta = typeMetaOf(statefulSets.GroupVersion(), "StatefulSet")
			set.ManagedFields = nil
			sets = append(sets, listed{object: set, meta: &set.ObjectMeta})
		}
		return printListed(printer, sets, format == "name", o.streams.Out)
	case len(all) == 0 && o.allNamespaces:
		fmt.Fprintln(o.streams.ErrOut, "No pools in any namespace.")
		return nil
	case len(all) == 0:
		fmt.Fprintf(o.streams.ErrOut, "No pools in namespace %s. %s pool create makes one; --all-namespaces lists those of others.\n", s.namespace, o.program)
		return nil
	}
	o.printTable(all)
	return nil
}

func (o *poolListOptions) printTable(all []poolState) {
	w := printers.GetNewTabWriter(o.streams.Out)
	defer func() { _ = w.Flush() }()
	first := "NAME"
	if o.allNamespaces {
		first = "NAMESPACE\tNAME"
	}
	fmt.Fprintln(w, first+"\tMIN\tMAX\tWORKERS\tCOMING\tTASKS\tPENDING\tSTATE")
	for i := range all {
		p := &all[i]
		columns := []string{p.set.Name, "-", "-"}
		if p.settings != nil {
			columns = []string{p.set.Name, strconv.Itoa(int(p.settings.Min)), strconv.Itoa(int(p.settings.Max))}
		}
		if o.allNamespaces {
			columns = append([]string{p.set.Namespace}, columns...)
		}
		for _, n := range []int{p.ready, p.coming, p.running, p.pending} {
			columns = append(columns, strconv.Itoa(n))
		}
		fmt.Fprintln(w, strings.Join(append(columns, p.describe(o.program)), "\t"))
	}
}
