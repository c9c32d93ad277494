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
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/printers"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	"k8s.io/client-go/tools/pager"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/scheme"
)

// listOptions are the flags of "list".
type listOptions struct {
	*factory
	allNamespaces, failed, mine, watching bool
	limit                                 int
	print                                 *genericclioptions.PrintFlags
}

const listLong = `List sets and tasks without a set, the newest first.

PROGRESS is how many indexes have succeeded, and how many have failed. LEFT is how long the rest takes at the average rate so far. The
tasks of sets are not listed: "kubectl get tasks" has them.

--watch then prints a row each time that the state, the progress or the queue of one changes, until Ctrl-C.`

func (f *factory) newListCommand() *cobra.Command {
	o := &listOptions{factory: f, print: genericclioptions.NewPrintFlags("").WithTypeSetter(scheme.Scheme)}
	command := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, GroupID: groupLook,
		Short: "List sets and tasks",
		Long:  listLong,
		Example: `  leat list
  leat list --mine
  leat list --mine --watch
  leat list --failed --limit 10
  leat ls --all-namespaces -o name`,
		Args: noArgs,
		RunE: func(command *cobra.Command, _ []string) error { return o.run(command.Context()) },
	}
	flags := command.Flags()
	flags.BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "Of all namespaces")
	flags.BoolVar(&o.mine, "mine", false, "Only those that you have created, by your user name on the server")
	flags.BoolVar(&o.failed, "failed", false, "Only those that have failed, and sets with indexes that have")
	flags.BoolVarP(&o.watching, "watch", "w", false, "After the table, print rows that change")
	flags.IntVar(&o.limit, "limit", 0, "How many to list, at most; 0 for all")
	o.print.AddFlags(command)
	output := flags.Lookup("output")
	output.Usage += " Or wide, for a table with the creators."
	return command
}

// listed is a set or a task without a set.
type listed struct {
	object  runtime.Object
	meta    *metav1.ObjectMeta
	kind    string
	failed  bool
	columns []string // from the state on
}

func (o *listOptions) run(ctx context.Context) error {
	if o.limit < 0 {
		return usageErrorf("--limit %d: write how many, or 0 for all", o.limit)
	}
	format := ptr.Deref(o.print.OutputFormat, "")
	wide := format == "wide"
	formatted := format != "" && !wide
	if o.watching && (formatted || o.limit > 0) {
		return usageErrorf("--watch prints a table without a limit: leave out --limit and -o %s", cmp.Or(format, "FORMAT"))
	}
	var printer printers.ResourcePrinter
	if formatted {
		var err error
		if printer, err = o.print.ToPrinter(); err != nil {
			return &exitError{exitUsage, err}
		}
	}
	s, err := o.connect()
	if err != nil {
		return err
	}
	namespace := s.namespace
	if o.allNamespaces {
		namespace = metav1.NamespaceAll
	}
	creator := ""
	if o.mine {
		if creator, err = s.userName(ctx); err != nil {
			return err
		}
	}
	all, err := s.listed(ctx, namespace, creator, time.Now())
	if err != nil {
		return err
	}
	if o.failed {
		all = slices.DeleteFunc(all, func(l listed) bool { return !l.failed })
	}
	slices.SortFunc(all, func(a, b listed) int {
		return cmp.Or(b.meta.CreationTimestamp.Compare(a.meta.CreationTimestamp.Time), strings.Compare(a.meta.Namespace, b.meta.Namespace), strings.Compare(a.meta.Name, b.meta.Name))
	})
	if o.limit > 0 {
		all = all[:min(o.limit, len(all))]
	}
	switch {
	case formatted:
		return printListed(printer, all, format == "name", o.streams.Out)
	case len(all) == 0:
		o.printNothing(s, creator)
		if !o.watching {
			return nil
		}
	}
	table := o.newListTable(wide)
	for _, l := range all {
		table.row(l)
	}
	if err := table.out.Flush(); err != nil || !o.watching {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	return o.watch(ctx, s, namespace, creator, all, table)
}

// userName returns the name of the user on the server.
func (s *session) userName(ctx context.Context) (string, error) {
	client, err := authenticationclient.NewForConfig(s.config)
	if err != nil {
		return "", err
	}
	review, err := client.SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("ask the server for your user name: %w", err)
	}
	return review.Status.UserInfo.Username, nil
}

// printNothing prints that nothing is listed, and what to do next. creator is empty unless --mine is set.
func (o *listOptions) printNothing(s *session, creator string) {
	what, where := "No sets or tasks", "in namespace "+s.namespace
	if o.failed {
		what = "No failed sets or tasks"
	}
	if o.allNamespaces {
		where = "in any namespace"
	}
	if creator != "" {
		where = "of " + sanitize.Line(creator) + " " + where
	}
	fmt.Fprintf(o.streams.ErrOut, "%s %s.", what, where)
	if !o.failed && !o.allNamespaces && creator == "" {
		fmt.Fprintf(o.streams.ErrOut, " %s run creates one; --all-namespaces lists those of others.", o.program)
	}
	fmt.Fprintln(o.streams.ErrOut)
}

// printListed prints objects in the format of -o, as a List unless they are printed one by one.
func printListed(printer printers.ResourcePrinter, all []listed, oneByOne bool, out io.Writer) error {
	list := &metav1.List{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "List"}, Items: []runtime.RawExtension{}}
	for _, l := range all {
		if !oneByOne {
			list.Items = append(list.Items, runtime.RawExtension{Object: l.object})
		} else if err := printer.PrintObj(l.object, out); err != nil {
			return err
		}
	}
	if oneByOne {
		return nil
	}
	return printer.PrintObj(list, out)
}

// listed returns the sets, and the tasks without one, of a namespace or of all, and of a creator unless it is empty.
func (s *session) listed(ctx context.Context, namespace, creator string, now time.Time) ([]listed, error) {
	var all []listed
	add := func(object runtime.Object) error {
		all = append(all, listedObject(object, now))
		return nil
	}
	setsOf, tasksOf := selectors(creator)
	sets := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return s.api.TaskSets(namespace).List(ctx, options)
	})
	if err := sets.EachListItem(ctx, metav1.ListOptions{LabelSelector: setsOf}, add); err != nil {
		return nil, err
	}
	tasks := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return s.api.Tasks(namespace).List(ctx, options)
	})
	err := tasks.EachListItem(ctx, metav1.ListOptions{LabelSelector: tasksOf}, add)
	return all, err
}

// selectors returns the label selectors of the sets, and of the tasks without one, of a creator, or of all if it is
// empty.
func selectors(creator string) (sets, tasks string) {
	tasks = "!" + batch.LabelControllerUID
	if creator != "" {
		sets = batch.LabelCreator + "=" + batch.CreatorLabel(creator)
		tasks += "," + sets
	}
	return sets, tasks
}

// listedObject returns a set or a task as it is listed.
func listedObject(object runtime.Object, now time.Time) listed {
	if set, ok := object.(*batch.TaskSet); ok {
		return listedSet(set, now)
	}
	return listedTask(object.(*batch.Task), now)
}

func listedSet(set *batch.TaskSet, now time.Time) listed {
	set.TypeMeta = typeMeta("TaskSet")
	s := taskstate.Progress(set)
	done, left, state := doneOf(s), "-", taskstate.Status(set)
	if s.Failed > 0 {
		done += fmt.Sprintf(", %d failed", s.Failed)
	}
	if state == "Running" {
		left = timeLeft(set, s, now)
	}
	failed := s.Failed > 0 || state == batch.TaskSetFailed
	return listed{set, &set.ObjectMeta, kindSet, failed, []string{state, done, left, set.Spec.QueueName, age(now.Sub(set.CreationTimestamp.Time))}}
}

func listedTask(task *batch.Task, now time.Time) listed {
	task.TypeMeta = typeMeta("Task")
	state := cmp.Or(string(task.Status.Phase), string(batch.TaskPending))
	if end := task.Status.State.Terminated; end != nil && task.Status.Phase == batch.TaskFailed {
		reason := "exit " + strconv.Itoa(int(end.ExitCode))
		if end.Reason != "" && end.Reason != batch.TaskReasonError {
			reason = sanitize.Line(end.Reason)
		}
		state += ", " + reason
	}
	if task.DeletionTimestamp != nil {
		state = "Terminating"
	}
	progress := "-"
	if task.Status.Progress != "" {
		progress = sanitize.Line(task.Status.Progress)
	}
	failed := task.Status.Phase == batch.TaskFailed
	return listed{task, &task.ObjectMeta, kindTask, failed, []string{state, progress, "-", task.Spec.QueueName, age(now.Sub(task.CreationTimestamp.Time))}}
}
