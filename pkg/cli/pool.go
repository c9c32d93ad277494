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
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/pool"
)

const (
	// maxPoolName is the maximum length of the name of a pool: the cluster labels pods with the name of their StatefulSet
	// and eleven characters more, and a label has 63.
	maxPoolName = 52
	// maxPoolPatch is the maximum size of the patch of --from in bytes. It is kept in an annotation.
	maxPoolPatch = 64 << 10
	// defaultPoolMax is the default of --max.
	defaultPoolMax = 10
)

const poolLong = `Create, list and change pools: workers in pods of this namespace, as many as the work needs, down to none.

A pool has one kind of worker: an image with the programs for your commands, and what each worker offers. Tasks with "leat run --pool
NAME" run on the workers of that pool only; tasks without --pool run on any worker that has room. When tasks wait that its workers
could run, leat-controller-manager adds workers, up to --max. Workers that have had no tasks for --idle are removed, down to --min. No
command that runs is ended for that.

A pool is a StatefulSet and what its pods need. Its objects have the label batch.leat.dev/pool. You create them with your own rights:
the ClusterRole admin of the namespace has them.`

const poolExample = `  leat pool create render --image debian:13           # up to 10 workers of 1 CPU and 1 GiB
  leat run --pool render --array 100 --wait -- sh -c 'echo $TASK_INDEX'
  leat pool list
  leat pool update render --max 50
  leat pool delete render`

func (f *factory) newPoolCommand() *cobra.Command {
	command := &cobra.Command{
		Use: "pool", GroupID: groupWorkers,
		Short: "Create, list and change pools of workers",
		Long:  poolLong, Example: poolExample,
		Args: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usageErrorf("unknown command %q: write create, list, update or delete", command.CommandPath()+" "+args[0])
		},
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(f.newPoolCreateCommand(), f.newPoolListCommand(), f.newPoolUpdateCommand(), f.newPoolDeleteCommand())
	return command
}

// poolFlags are the flags that describe a pool.
type poolFlags struct {
	image            string
	tasks, gpus      int32
	cpu, memory      string
	resources        []string
	least, most      int32
	idle             time.Duration
	labels, taints   []string
	from             string
	overrideManagers bool
}

func (p *poolFlags) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&p.image, "image", "", "Image with the programs for the commands, like debian:13. It needs no program of Leat")
	flags.Int32Var(&p.tasks, "tasks", 0, "Number of tasks that each worker runs at a time (default: one for each CPU)")
	flags.StringVar(&p.cpu, "cpu", "1", "CPUs of each worker, like 4 or 500m")
	flags.StringVar(&p.memory, "memory", "1Gi", "Memory of each worker, like 8Gi. Its tasks share it")
	flags.Int32Var(&p.gpus, "gpu", 0, "GPUs of each worker, as --resource "+string(batch.ResourceGPU)+"=N")
	flags.StringSliceVar(&p.resources, "resource", nil, "Another resource of each worker that nodes have, like example.com/fpga=1; can be repeated")
	flags.Int32Var(&p.most, "max", defaultPoolMax, "Largest number of workers")
	flags.Int32Var(&p.least, "min", 0, "Smallest number of workers; the same as --max for a pool that is not scaled")
	flags.DurationVar(&p.idle, "idle", pool.DefaultIdle, "How long a worker has had no tasks when it is removed")
	flags.StringArrayVar(&p.labels, "label", nil, "Label of the workers as KEY=VALUE, for --worker-selector of tasks; can be repeated")
	flags.StringArrayVar(&p.taints, "taint", nil, "Taint of the workers as KEY=VALUE:EFFECT or KEY:EFFECT, for tasks that tolerate it; can be repeated")
	flags.StringVar(&p.from, "from", "", "File with a patch of the StatefulSet for all else, like volumes, tolerations or nodeSelector; - for standard input. Its container is "+poolContainer)
	flags.BoolVar(&p.overrideManagers, "force-conflicts", false, "Overwrite what others have changed in the objects of the pool")
}

// poolFlagNames are the flags that change a pool.
var poolFlagNames = []string{"image", "tasks", "cpu", "memory", "gpu", "resource", "max", "min", "idle", "label", "taint", "from"}

// newPoolConfig returns the pool that the flags of "create" describe.
func (p *poolFlags) newPoolConfig(flags *pflag.FlagSet, name string, in io.Reader) (*poolConfig, error) {
	if p.image == "" {
		return nil, usageErrorf("--image is missing: name an image with the programs for your commands, like --image debian:13")
	}
	config := &poolConfig{name: name, settings: pool.Settings{Max: p.most, Min: p.least, Idle: p.idle, Worker: pool.Worker{
		Allocatable: batch.ResourceList{batch.ResourceCPU: resource.MustParse("1"), batch.ResourceMemory: resource.MustParse("1Gi")},
	}}}
	if err := p.change(flags, config, in); err != nil {
		return nil, err
	}
	if !flags.Changed("tasks") {
		cpu := config.settings.Worker.Allocatable[batch.ResourceCPU]
		config.settings.Worker.Allocatable[batch.ResourceTasks] = *resource.NewQuantity(max(1, cpu.MilliValue()/1000), resource.DecimalSI)
	}
	return config, nil
}

// change sets in the pool what the flags of the command line say.
func (p *poolFlags) change(flags *pflag.FlagSet, config *poolConfig, in io.Reader) error {
	settings := &config.settings
	if flags.Changed("image") {
		config.image = p.image
	}
	if flags.Changed("max") {
		settings.Max = p.most
	}
	if flags.Changed("min") {
		settings.Min = p.least
	}
	switch {
	case settings.Max < 1 || settings.Max > pool.MaxWorkers:
		return usageErrorf("--max %d: write a number from 1 to %d", settings.Max, pool.MaxWorkers)
	case settings.Min < 0 || settings.Min > settings.Max:
		return usageErrorf("--min %d: write a number from 0 to --max %d", settings.Min, settings.Max)
	case config.image == "":
		return usageErrorf("--image is empty: name an image with the programs for your commands, like debian:13")
	}
	if flags.Changed("idle") {
		if p.idle < 0 || p.idle > pool.MaxIdle || p.idle%time.Second != 0 {
			return usageErrorf("--idle %s: write whole seconds from 0s to %s, like 60s or 10m", p.idle, pool.MaxIdle)
		}
		settings.Idle = p.idle
	}
	if err := p.changeResources(flags, settings.Worker.Allocatable); err != nil {
		return err
	}
	if flags.Changed("label") {
		set, err := parseLabels(p.labels)
		if err != nil {
			return err
		}
		if _, ok := set[batch.LabelPool]; ok {
			return usageErrorf("--label %s: leave it out: it is the name of the pool", batch.LabelPool)
		}
		settings.Worker.Labels = set
	}
	if flags.Changed("taint") {
		settings.Worker.Taints = nil
		for _, text := range p.taints {
			taint, err := parseTaint(text)
			if err != nil {
				return err
			}
			settings.Worker.Taints = append(settings.Worker.Taints, taint)
		}
	}
	if flags.Changed("from") {
		var err error
		if config.patch, err = readPatch(p.from, in); err != nil {
			return usageErrorf("--from: %w", err)
		}
	}
	return nil
}

// changeResources sets what each worker offers.
func (p *poolFlags) changeResources(flags *pflag.FlagSet, allocatable batch.ResourceList) error {
	if flags.Changed("tasks") {
		if p.tasks < 1 {
			return usageErrorf("--tasks %d: write 1 or more", p.tasks)
		}
		allocatable[batch.ResourceTasks] = *resource.NewQuantity(int64(p.tasks), resource.DecimalSI)
	}
	for name, amount := range map[string]string{"cpu": p.cpu, "memory": p.memory} {
		if !flags.Changed(name) {
			continue
		}
		quantity, err := resource.ParseQuantity(amount)
		if err != nil || quantity.Sign() <= 0 {
			return usageErrorf("--%s %q: write an amount, like --cpu 500m or --memory 8Gi", name, amount)
		}
		allocatable[batch.ResourceName(name)] = quantity
	}
	counted := slices.Clone(p.resources)
	if flags.Changed("gpu") {
		if p.gpus < 0 {
			return usageErrorf("--gpu %d: write how many, like 1", p.gpus)
		}
		counted = append(counted, fmt.Sprintf("%s=%d", string(batch.ResourceGPU), p.gpus))
	}
	seen := map[string]bool{}
	for _, text := range counted {
		name, amount, _ := strings.Cut(text, "=")
		quantity, err := resource.ParseQuantity(amount)
		// Nodes count extended resources in whole numbers.
		if err != nil || quantity.Sign() < 0 || quantity.MilliValue()%1000 != 0 || !strings.Contains(name, "/") || len(content.IsLabelKey(name)) > 0 {
			return usageErrorf("--resource %q: write a name with a domain and a whole number, like example.com/fpga=1", text)
		}
		if seen[name] {
			return usageErrorf("%s is given twice", name)
		}
		seen[name] = true
		if quantity.IsZero() {
			delete(allocatable, batch.ResourceName(name))
		} else {
			allocatable[batch.ResourceName(name)] = quantity
		}
	}
	return nil
}

// parseTaint parses KEY=VALUE:EFFECT and KEY:EFFECT.
func parseTaint(text string) (batch.Taint, error) {
	keyValue, effect, _ := strings.Cut(text, ":")
	key, value, _ := strings.Cut(keyValue, "=")
	taint := batch.Taint{Key: key, Value: value, Effect: batch.TaintEffect(effect)}
	effects := []batch.TaintEffect{batch.TaintEffectNoSchedule, batch.TaintEffectPreferNoSchedule, batch.TaintEffectNoExecute}
	messages := append(content.IsLabelKey(key), content.IsLabelValue(value)...)
	if !slices.Contains(effects, taint.Effect) {
		messages = append(messages, "the effect is NoSchedule, PreferNoSchedule or NoExecute")
	}
	if len(messages) > 0 {
		return taint, usageErrorf("--taint %q: write KEY=VALUE:EFFECT or KEY:EFFECT: %s", text, strings.Join(messages, "; "))
	}
	return taint, nil
}

// readPatch returns the content of a file of YAML as JSON. It returns nil for an empty file, which removes a patch.
func readPatch(path string, in io.Reader) ([]byte, error) {
	var text []byte
	var err error
	if path == "-" {
		text, err = io.ReadAll(in)
	} else {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: name a file with a part of a StatefulSet, or - for standard input", err)
	}
	patch, err := yaml.YAMLToJSON(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: write a part of a StatefulSet in YAML", err)
	case len(patch) > maxPoolPatch:
		return nil, fmt.Errorf("the patch has %d bytes: at most %d are accepted", len(patch), maxPoolPatch)
	case string(patch) == "null" || string(patch) == "{}":
		return nil, nil
	case patch[0] != '{':
		return nil, errors.New("write a part of a StatefulSet, like {spec: {template: {spec: {nodeSelector: {disk: ssd}}}}}")
	}
	return patch, nil
}

// onePoolName requires the name of a pool.
func onePoolName(command *cobra.Command, args []string) error {
	if err := exactlyOne("pool")(command, args); err != nil {
		return err
	}
	return validPoolName(args[0])
}

func validPoolName(name string) error {
	if messages := content.IsDNS1123Label(name); len(messages) > 0 {
		return usageErrorf("pool %q: write a name of lower case letters, digits and -: %s", name, strings.Join(messages, "; "))
	}
	if len(name) > maxPoolName {
		return usageErrorf("pool %q has %d characters: at most %d are accepted", name, len(name), maxPoolName)
	}
	return nil
}

// poolInfo returns the data of the ConfigMap leat-info.
func (f *factory) poolInfo(ctx context.Context, c *cluster) (map[string]string, error) {
	if f.workersAreLocal() {
		return nil, errors.New("this is the server of \"leat up\", which has workers of its own: pools are pods of a cluster")
	}
	where := batch.SystemNamespace + "/" + pool.InfoConfigMap
	found, err := c.CoreV1().ConfigMaps(batch.SystemNamespace).Get(ctx, pool.InfoConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("there is no ConfigMap %s, from which pools are made: leat-controller-manager --register-service writes it "+
			"when the certificates exist; its log says what it waits for", where)
	}
	if err != nil {
		return nil, err
	}
	for _, key := range []string{pool.InfoServer, pool.InfoCA, pool.InfoClientCA, pool.InfoImage} {
		if found.Data[key] == "" {
			return nil, fmt.Errorf("ConfigMap %s has no key %s: leat-controller-manager writes it again within a minute", where, key)
		}
	}
	return found.Data, nil
}
