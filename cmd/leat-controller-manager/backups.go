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
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
	cliflag "k8s.io/component-base/cli/flag"

	"github.com/leat-dev/leat/cmd/internal/flags"
)

// scheduledBackup matches the files of the CronJob in config/components/etcd: snapshots and unfinished snapshots. The
// number is the minute for which the Job was scheduled. Snapshots that users take have other names.
var scheduledBackup = regexp.MustCompile(`^leat-etcd-backup-([0-9]{1,18})\.db(\.part)?$`)

// newPruneBackupsCommand returns the command prune-backups.
func newPruneBackupsCommand() *cobra.Command {
	keep := 11
	command := &cobra.Command{
		Use:   "prune-backups DIRECTORY",
		Short: "Delete old snapshots of etcd",
		Long: `Delete all but the newest snapshots of etcd that the CronJob leat-etcd-backup has taken, and its unfinished snapshots. Other files,
like snapshots that were taken manually, are kept.`,
		Example:      `  leat-controller-manager prune-backups --keep=11 /backup`,
		Args:         cobra.ExactArgs(1),
		SilenceUsage: true,
		RunE: func(command *cobra.Command, args []string) error {
			if keep < 1 {
				return fmt.Errorf("--keep %d: must be 1 or more", keep)
			}
			deleted, err := pruneBackups(args[0], keep)
			for _, name := range deleted {
				fmt.Fprintln(command.OutOrStdout(), "deleted", name)
			}
			return err
		},
	}
	var sets cliflag.NamedFlagSets
	sets.FlagSet("backups").IntVar(&keep, "keep", keep, "How many snapshots to keep. The CronJob prunes before it takes the next one")
	flags.Add(command, sets)
	return command
}

// pruneBackups deletes all but the newest snapshots in a directory, and returns the names of the deleted files.
func pruneBackups(directory string, keep int) (deleted []string, err error) {
	entries, err := os.ReadDir(directory)
	if err != nil {
		return nil, err
	}
	type snapshot struct {
		name   string
		minute int64
	}
	var snapshots []snapshot
	var toDelete []string
	for _, entry := range entries {
		match := scheduledBackup.FindStringSubmatch(entry.Name())
		if match == nil || !entry.Type().IsRegular() {
			continue
		}
		minute, err := strconv.ParseInt(match[1], 10, 64)
		switch {
		case err != nil:
			return nil, err
		case match[2] != "":
			toDelete = append(toDelete, entry.Name())
		default:
			snapshots = append(snapshots, snapshot{entry.Name(), minute})
		}
	}
	slices.SortFunc(snapshots, func(a, b snapshot) int { return cmp.Compare(b.minute, a.minute) })
	for _, old := range snapshots[min(keep, len(snapshots)):] {
		toDelete = append(toDelete, old.name)
	}
	var errs []error
	for _, name := range toDelete {
		if err := os.Remove(filepath.Join(directory, name)); err != nil {
			errs = append(errs, err)
			continue
		}
		deleted = append(deleted, name)
	}
	return deleted, errors.Join(errs...)
}
