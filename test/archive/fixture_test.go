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

package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/archive/segment"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// cluster is a host cluster with Leat, whose server has no archive, and a store.
type cluster struct {
	*kit.Env
	s3 *host.S3
	// clientCAFile has the authority of the certificate that servers show to workers.
	clientCAFile string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	clientCAFile, args := kit.WorkerClient(t)
	e := kit.Aggregated(t, args...)
	e.StartManager(t, "one")
	return &cluster{e, host.S3ForTest(t), clientCAFile}
}

// site is a namespace of the cluster with one worker, and a server of its own, to which the worker and users connect.
type site struct {
	// Env is that of the server.
	*kit.Env
	t         *testing.T
	cluster   *cluster
	namespace string
	sets      typed.TaskSetInterface
	// bucket is the directory with the stored segments.
	bucket string
	// dir is the working directory of commands. Index i prints its file i.
	dir        string
	stateDir   string
	kubeconfig string
	worker     *host.Process
}

// workerName is the name of the worker of each site.
const workerName = "w"

// newSite starts a server, whose archive has the flags, and a worker.
func (c *cluster) newSite(t *testing.T, s3 *host.S3, flags ...string) *site {
	t.Helper()
	s := c.newServer(t, s3, flags...)
	s.worker = s.StartWorker(t, s.Worker(t, s.namespace, workerName), s.namespace, workerName, nil, s.workerFlags()...)
	return s
}

// newServer starts the server of a site, whose archive has the flags.
func (c *cluster) newServer(t *testing.T, s3 *host.S3, flags ...string) *site {
	t.Helper()
	s := &site{t: t, cluster: c, namespace: c.Namespace(t), dir: t.TempDir(), stateDir: t.TempDir()}
	s.bucket = filepath.Join(s3.BucketDir, s.namespace)
	s.Env = c.Replica(t, append([]string{"--archive=s3://" + s3.Bucket + "/" + s.namespace}, flags...)...).AtServer()
	config := s.Admin(t)
	s.sets = kit.Client(t, config).BatchV1alpha1().TaskSets(s.namespace)
	s.kubeconfig = s.Kubeconfig(t, config, s.namespace)
	return s
}

// workerFlags returns the flags of the worker, without its kubeconfig.
func (s *site) workerFlags() []string {
	return []string{"--state-dir=" + s.stateDir, "--client-ca-file=" + s.cluster.clientCAFile, "--tasks=4"}
}

// run runs a set and waits until it is complete.
func (s *site) run(name string, outputs ...string) *batch.TaskSet {
	s.t.Helper()
	s.create(name, outputs...)
	return s.complete(name)
}

// create creates a set with an index for each output.
func (s *site) create(name string, outputs ...string) {
	s.t.Helper()
	for i, output := range outputs {
		kit.Check(s.t, os.WriteFile(filepath.Join(s.dir, fmt.Sprintf("%s-%d", name, i)), []byte(output), 0o600))
	}
	set := kit.NewTaskSet(name, "sh", "-c", "cat "+name+"-$TASK_INDEX")
	set.Spec.Completions, set.Spec.Parallelism = new(int32(len(outputs))), new(int32(len(outputs)))
	set.Spec.CompletionMode = new(batch.IndexedCompletion)
	set.Spec.Template.Spec.WorkingDir = s.dir
	kit.Must(s.sets.Create(s.t.Context(), set, metav1.CreateOptions{}))(s.t)
}

// complete waits until a set is complete. It asks the first server of the cluster: that of the site may be dead.
func (s *site) complete(name string) *batch.TaskSet {
	s.t.Helper()
	sets := kit.Client(s.t, s.cluster.AtServer().Admin(s.t)).BatchV1alpha1().TaskSets(s.namespace)
	var set *batch.TaskSet
	kit.Eventually(s.t, "set "+name+" is complete", func(ctx context.Context) (err error) {
		if set, err = sets.Get(ctx, name, metav1.GetOptions{}); err == nil && !meta.IsStatusConditionTrue(set.Status.Conditions, batch.TaskSetComplete) {
			err = fmt.Errorf("its status is %+v", set.Status)
		}
		return err
	})
	return set
}

// announced waits until the status of the worker names the set as one whose output is not in the archive.
func (s *site) announced(set *batch.TaskSet) {
	s.t.Helper()
	workers := kit.Client(s.t, s.Admin(s.t)).BatchV1alpha1().Workers(s.namespace)
	kit.Eventually(s.t, "the worker names the set", func(ctx context.Context) error {
		worker, err := workers.Get(ctx, workerName, metav1.GetOptions{})
		if err == nil && !slices.Contains(worker.Status.Unarchived, set.UID) {
			err = fmt.Errorf("status.unarchived is %v", worker.Status.Unarchived)
		}
		return err
	})
}

// spooled returns the paths of what waits on the disk of the worker.
func (s *site) spooled() []string {
	s.t.Helper()
	spool := filepath.Join(s.stateDir, "spool", s.namespace, workerName)
	files := kit.Must(filepath.Glob(filepath.Join(spool, "*.*")))(s.t)
	return append(files, kit.Must(filepath.Glob(filepath.Join(spool, "refused", "*")))(s.t)...)
}

// arrived waits until the disk of the worker has nothing that is not in the archive.
func (s *site) arrived() {
	s.t.Helper()
	kit.Eventually(s.t, "all is sent", func(context.Context) error {
		if files := s.spooled(); len(files) > 0 {
			return fmt.Errorf("the worker still has %q", files)
		}
		return nil
	})
}

// stores checks that the store has the output of each index of a set once, and nothing else of the set.
func (s *site) stores(set *batch.TaskSet, outputs ...string) {
	s.t.Helper()
	found := make([]int, len(outputs))
	for _, path := range kit.Must(filepath.Glob(filepath.Join(s.bucket, "*", string(set.UID), workerName, "*.zip")))(s.t) {
		reader := kit.Must(segment.OpenFile(path, limits))(s.t)
		for _, record := range kit.Must(reader.Records())(s.t) {
			output, _, err := reader.Output(segment.EntryName(&record))
			switch index := *record.Index; {
			case err != nil:
				s.t.Errorf("%s: the output of index %d: %v", path, index, err)
			case string(output) != outputs[index]:
				s.t.Errorf("%s has %d bytes of index %d of set %s, which begin with %.40q, want %d bytes", path, len(output), index, set.Name,
					output, len(outputs[index]))
			default:
				found[index]++
			}
		}
	}
	for index, n := range found {
		if n != 1 {
			s.t.Errorf("the output of index %d of set %s is in the store %d times, want once", index, set.Name, n)
		}
	}
}

// limits are larger than those of the server.
var limits = segment.Limits{Size: segment.MaxSize, Output: segment.MaxSize, Records: segment.MaxSize}

// result is the output of a run of the program leat.
type result struct {
	line, out, errOut string
	code              int
}

// leat runs the program.
func (s *site) leat(args ...string) result {
	s.t.Helper()
	ctx, stop := context.WithTimeout(s.t.Context(), kit.Patience)
	defer stop()
	command := exec.CommandContext(ctx, kit.Program(s.t, "leat"), args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+s.kubeconfig, "HOME="+s.dir)
	var out, errOut bytes.Buffer
	command.Stdout, command.Stderr = &out, &errOut
	err := command.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return result{strings.Join(args, " "), out.String(), errOut.String(), command.ProcessState.ExitCode()}
}

// expect checks a result.
func (r result) expect(t *testing.T, code int, out, errOut string) {
	t.Helper()
	if r.code != code || r.out != out || r.errOut != errOut {
		t.Errorf("leat %s: got exit code %d, want %d\nstdout:\n%.1000s\nwant:\n%.1000s\nstderr:\n%swant:\n%s", r.line, r.code, code, r.out, out, r.errOut, errOut)
	}
}

// prefixed returns what "leat logs" prints of a set with one line for each index.
func prefixed(set string, outputs []string) string {
	var text strings.Builder
	for i, output := range outputs {
		fmt.Fprintf(&text, "[%s/%d] %s", set, i, output)
	}
	return text.String()
}

// lines returns an output of one line for each index of a set.
func lines(set string) []string {
	all := make([]string, 4)
	for i := range all {
		all[i] = fmt.Sprintf("%s prints %d\n", set, i)
	}
	return all
}
