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
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPruneBackups(t *testing.T) {
	for name, test := range map[string]struct {
		keep        string
		there, kept []string
		want        string // in the error
	}{
		"nothing there": {keep: "3"},
		"fewer than are kept": {
			keep:  "3",
			there: []string{"leat-etcd-backup-29000000.db", "leat-etcd-backup-29000360.db"},
			kept:  []string{"leat-etcd-backup-29000000.db", "leat-etcd-backup-29000360.db"},
		},
		"the oldest by number are deleted, not by name": {
			keep:  "2",
			there: []string{"leat-etcd-backup-99999720.db", "leat-etcd-backup-100000080.db", "leat-etcd-backup-100000440.db"},
			kept:  []string{"leat-etcd-backup-100000080.db", "leat-etcd-backup-100000440.db"},
		},
		"unfinished snapshots are deleted and do not count": {
			keep:  "1",
			there: []string{"leat-etcd-backup-29000000.db", "leat-etcd-backup-29000360.db.part"},
			kept:  []string{"leat-etcd-backup-29000000.db"},
		},
		"other files are kept": {
			keep: "1",
			there: []string{
				"backup-before.db", "backup-before.db.part", "leat-etcd-backup-.db", "leat-etcd-backup-1.db.bak", "lost+found/",
				"leat-etcd-backup-1.db/", "leat-etcd-backup-29000000.db", "leat-etcd-backup-29000360.db",
			},
			kept: []string{
				"backup-before.db", "backup-before.db.part", "leat-etcd-backup-.db", "leat-etcd-backup-1.db", "leat-etcd-backup-1.db.bak",
				"leat-etcd-backup-29000360.db", "lost+found",
			},
		},
		"at least one snapshot must be kept": {
			keep: "0", there: []string{"leat-etcd-backup-29000000.db"}, kept: []string{"leat-etcd-backup-29000000.db"},
			want: "--keep 0: must be 1 or more",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range test.there {
				path := filepath.Join(dir, name)
				var err error
				if strings.HasSuffix(name, "/") {
					err = os.Mkdir(path, 0o700)
				} else {
					err = os.WriteFile(path, nil, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			command := newCommand()
			command.SetArgs([]string{"prune-backups", "--keep=" + test.keep, dir})
			command.SetOut(&bytes.Buffer{})
			command.SilenceErrors = true
			if err := command.Execute(); (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %v, want %q", err, test.want)
			}
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			var kept []string
			for _, entry := range entries {
				kept = append(kept, entry.Name())
			}
			if !slices.Equal(kept, test.kept) {
				t.Errorf("there are %q, want %q", kept, test.kept)
			}
		})
	}
}
