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

package convert

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/randfill"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/pool"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

var testOptions = Options{Namespace: "render", Info: map[string]string{
	pool.InfoServer: "https://leat-apiserver.leat-system.svc", pool.InfoCA: "authority\n", pool.InfoClientCA: "client authority\n",
	pool.InfoImage: "example.com/leat:1",
}}

// convertObject converts a Job or a CronJob.
func convertObject(t testing.TB, object runtime.Object, o Options) (*Result, field.ErrorList) {
	t.Helper()
	switch object := object.(type) {
	case *batchv1.Job:
		return Job(object, o)
	case *batchv1.CronJob:
		return CronJob(object, o)
	}
	t.Fatalf("got an object of type %T, want a Job or a CronJob", object)
	return nil, nil
}

func readFile(t testing.TB, name string) []runtime.Object {
	t.Helper()
	file, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	objects, err := Read(file)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// TestConvertedManifests compares what Jobs become, and the errors and notes, with golden files.
func TestConvertedManifests(t *testing.T) {
	for _, name := range []string{"job", "indexed", "policies", "cronjob", "convertible", "refused"} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			for _, object := range readFile(t, name+".yaml") {
				before := object.DeepCopyObject()
				result, errs := convertObject(t, object, testOptions)
				if !apiequality.Semantic.DeepEqual(before, object) {
					t.Errorf("the conversion changed its argument")
				}
				for _, err := range errs {
					fmt.Fprintf(&got, "# error: %s\n", err)
				}
				if result == nil {
					continue
				}
				for _, note := range result.Notes {
					fmt.Fprintf(&got, "# note: %s\n", note)
				}
				manifest, err := result.Manifest()
				if err != nil {
					t.Fatal(err)
				}
				got.Write(manifest)
			}
			golden := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("got other manifests than %s: run with -update and look at the difference:\n%s", golden, got.Bytes())
			}
		})
	}
}

// TestEveryFieldIsDecided fails for a field of a Job, of its pod or of a CronJob that no table has, and for one that a
// table has and a type lacks.
func TestEveryFieldIsDecided(t *testing.T) {
	for _, table := range Tables() {
		names := table.Names()
		for _, name := range names {
			if f, ok := table.Fields[name]; !ok {
				t.Errorf("%s.%s has no entry in the table: decide what a conversion does with it", table.Path, name)
			} else if !slices.Contains([]Effect{Kept, Converted, Refused, Ignored}, f.Effect) || f.Effect != Kept && f.Text == "" {
				t.Errorf("%s.%s: got %+v, want an effect and, unless the field is kept, why", table.Path, name, f)
			}
		}
		for name := range table.Fields {
			if !slices.Contains(names, name) {
				t.Errorf("%s.%s is in the table, and %s has no such field", table.Path, name, table.Type)
			}
		}
	}
}

// TestRefusedFieldsAreNamed sets each refused field, and expects an error with its path.
func TestRefusedFieldsAreNamed(t *testing.T) {
	for _, table := range Tables() {
		for _, name := range table.Names() {
			if table.Fields[name].Effect != Refused {
				continue
			}
			job := minimalJob()
			var holder any
			switch table {
			case &jobTable:
				holder = &job.Spec
			case &templateMetadataTable:
				holder = &job.Spec.Template.ObjectMeta
			case &podTable:
				holder = &job.Spec.Template.Spec
			case &containerTable:
				holder = &job.Spec.Template.Spec.Containers[0]
			default:
				t.Fatalf("%s.%s is refused, and the test cannot set it", table.Path, name)
			}
			v := reflect.ValueOf(holder).Elem().Field(slices.Index(table.Names(), name))
			filler := randfill.NewWithSeed(1).NilChance(0).NumElements(1, 1)
			for filler.Fill(v.Addr().Interface()); v.IsZero() || v.Kind() == reflect.Pointer && v.Elem().IsZero(); {
				filler.Fill(v.Addr().Interface())
			}
			want := strings.ReplaceAll(table.Path, "containers[]", "containers[0]") + "." + name
			_, errs := Job(job, testOptions)
			if !slices.ContainsFunc(errs, func(err *field.Error) bool { return err.Field == want }) {
				t.Errorf("%s: got errors %v, want one of this field", want, errs)
			}
		}
	}
}

// minimalJob returns a Job that can be converted.
func minimalJob() *batchv1.Job {
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "job"},
		Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			Containers:    []corev1.Container{{Name: "main", Image: "example.com/main:1", Command: []string{"work"}}},
		}}},
	}
}

func TestRefusals(t *testing.T) {
	indexRef := &corev1.ObjectFieldSelector{FieldPath: "metadata.annotations['batch.kubernetes.io/job-completion-index']"}
	uidRef := &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['batch.kubernetes.io/controller-uid']"}
	failurePolicy := func(rules ...batchv1.PodFailurePolicyRule) func(*batchv1.Job) {
		return func(job *batchv1.Job) { job.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: rules} }
	}
	pod := func(change func(*corev1.PodSpec)) func(*batchv1.Job) {
		return func(job *batchv1.Job) { change(&job.Spec.Template.Spec) }
	}
	main := func(change func(*corev1.Container)) func(*batchv1.Job) {
		return func(job *batchv1.Job) { change(&job.Spec.Template.Spec.Containers[0]) }
	}
	for _, tc := range []struct {
		name   string
		change func(*batchv1.Job)
		want   string // path of the only error, "" for none
	}{
		{"nothing", func(*batchv1.Job) {}, ""},
		{"the controller of Jobs as manager", func(job *batchv1.Job) { job.Spec.ManagedBy = new(batchv1.JobControllerName) }, ""},
		{"another manager", func(job *batchv1.Job) { job.Spec.ManagedBy = new("example.com/other") }, "spec.managedBy"},
		{"restart always", pod(func(pod *corev1.PodSpec) { pod.RestartPolicy = corev1.RestartPolicyAlways }), "spec.template.spec.restartPolicy"},
		{"Windows", pod(func(pod *corev1.PodSpec) { pod.OS = &corev1.PodOS{Name: corev1.Windows} }), "spec.template.spec.os.name"},
		{"Windows by label", pod(func(pod *corev1.PodSpec) { pod.NodeSelector = map[string]string{corev1.LabelOSStable: "windows"} }),
			"spec.template.spec.nodeSelector[kubernetes.io/os]"},
		{"affinity to the pods of the Job", pod(func(pod *corev1.PodSpec) {
			term := corev1.PodAffinityTerm{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x", "job-name": "x"}}}
			pod.Affinity = &corev1.Affinity{
				PodAffinity:     &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{PodAffinityTerm: term}}},
				PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{MatchLabelKeys: []string{"app"}}}},
			}
		}), "spec.template.spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector"},
		{"spread of the pods of the Job", pod(func(pod *corev1.PodSpec) {
			pod.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MatchLabelKeys: []string{batchv1.ControllerUidLabel}}}
		}), "spec.template.spec.topologySpreadConstraints[0].labelSelector"},
		{"a failure of an init container", failurePolicy(batchv1.PodFailurePolicyRule{
			Action: batchv1.PodFailurePolicyActionFailJob, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{
				ContainerName: new("init"), Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{1}},
		}), "spec.podFailurePolicy.rules[0].onExitCodes.containerName"},
		{"a disruption that fails the Job", failurePolicy(batchv1.PodFailurePolicyRule{
			Action:          batchv1.PodFailurePolicyActionFailJob,
			OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
		}), "spec.podFailurePolicy.rules[0].onPodConditions[0].type"},
		{"another condition of the pod", failurePolicy(batchv1.PodFailurePolicyRule{
			Action:          batchv1.PodFailurePolicyActionFailJob,
			OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: "ConfigIssue", Status: corev1.ConditionTrue}},
		}), "spec.podFailurePolicy.rules[0].onPodConditions[0].type"},
		{"a condition that is false", failurePolicy(batchv1.PodFailurePolicyRule{
			Action:          batchv1.PodFailurePolicyActionIgnore,
			OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse}},
		}), "spec.podFailurePolicy.rules[0].onPodConditions[0].status"},
		{"a mount over the directory of the program", main(func(c *corev1.Container) {
			c.VolumeMounts = []corev1.VolumeMount{{Name: "x", MountPath: "/opt/leat/lib/"}}
		}), "spec.template.spec.containers[0].volumeMounts[0].mountPath"},
		{"a mount above it", main(func(c *corev1.Container) { c.VolumeMounts = []corev1.VolumeMount{{Name: "x", MountPath: "/opt"}} }),
			"spec.template.spec.containers[0].volumeMounts[0].mountPath"},
		{"a mount beside it", main(func(c *corev1.Container) {
			c.VolumeMounts = []corev1.VolumeMount{{Name: "x", MountPath: "/opt/leather"}}
		}), ""},
		{"an init container that needs the index", pod(func(pod *corev1.PodSpec) {
			pod.InitContainers = []corev1.Container{{Name: "init", Args: []string{"$(JOB_COMPLETION_INDEX)"}}}
		}), "spec.template.spec.initContainers[0].args[0]"},
		{"an init container with the index in its environment", pod(func(pod *corev1.PodSpec) {
			pod.InitContainers = []corev1.Container{{Name: "init", Env: []corev1.EnvVar{{Name: "I", ValueFrom: &corev1.EnvVarSource{FieldRef: indexRef}}}}}
		}), "spec.template.spec.initContainers[0].env[0].valueFrom.fieldRef.fieldPath"},
		{"a volume with the index", pod(func(pod *corev1.PodSpec) {
			pod.Volumes = []corev1.Volume{{Name: "x", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{
				Items: []corev1.DownwardAPIVolumeFile{{Path: "i", FieldRef: indexRef}}}}}}
		}), "spec.template.spec.volumes[0].downwardAPI.items[0].fieldRef.fieldPath"},
		{"a projected volume with the UID", pod(func(pod *corev1.PodSpec) {
			pod.Volumes = []corev1.Volume{{Name: "x", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
				Sources: []corev1.VolumeProjection{{DownwardAPI: &corev1.DownwardAPIProjection{
					Items: []corev1.DownwardAPIVolumeFile{{Path: "u", FieldRef: uidRef}}}}}}}}}
		}), "spec.template.spec.volumes[0].projected.sources[0].downwardAPI.items[0].fieldRef.fieldPath"},
		{"the UID of the Job", main(func(c *corev1.Container) {
			c.Env = []corev1.EnvVar{{Name: "U", ValueFrom: &corev1.EnvVarSource{FieldRef: uidRef}}}
		}), "spec.template.spec.containers[0].env[0].valueFrom.fieldRef.fieldPath"},
		{"a kubeconfig from a ConfigMap", main(func(c *corev1.Container) {
			c.Env = []corev1.EnvVar{{Name: "KUBECONFIG", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{}}}}
		}), "spec.template.spec.containers[0].env[0]"},
		{"an index beside a secret value", main(func(c *corev1.Container) {
			c.Env = []corev1.EnvVar{
				{Name: "S", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{}}},
				{Name: "I", ValueFrom: &corev1.EnvVarSource{FieldRef: indexRef}}, {Name: "BOTH", Value: "$(S)$(I)"},
			}
		}), "spec.template.spec.containers[0].env[2]"},
		{"a secret value that only a variable of the pod has", main(func(c *corev1.Container) {
			c.Env = []corev1.EnvVar{
				{Name: "S", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{}}}, {Name: "URL", Value: "x/$(S)"},
			}
		}), ""},
		{"a command of a shell", main(func(c *corev1.Container) {
			c.EnvFrom = []corev1.EnvFromSource{{Prefix: "X"}}
			c.Command = []string{"sh", "-c", "echo $(date +%s) $(hostname) $$(X) $X $"}
		}), ""},
		{"what envFrom may have", main(func(c *corev1.Container) {
			c.EnvFrom = []corev1.EnvFromSource{{Prefix: "X"}}
			c.Command = []string{"work", "$(URL)"}
		}), "spec.template.spec.containers[0].command[1]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			job := minimalJob()
			tc.change(job)
			_, errs := Job(job, testOptions)
			var got []string
			for _, err := range errs {
				got = append(got, err.Field)
			}
			var want []string
			if tc.want != "" {
				want = []string{tc.want}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got errors %v, want one of %q", errs, want)
			}
		})
	}
}

// TestEntrypointOfTheImage: the entrypoint in the options stands for a missing command, and is not expanded.
func TestEntrypointOfTheImage(t *testing.T) {
	o := testOptions
	o.Entrypoint = []string{"/entrypoint", "$(A)"}
	if _, errs := Job(minimalJob(), o); len(errs) != 1 || errs[0].Field != "spec.template.spec.containers[0].command" {
		t.Errorf("a Job with a command: got errors %v, want one of the command", errs)
	}
	job := minimalJob()
	job.Spec.Template.Spec.Containers[0].Command = nil
	job.Spec.Template.Spec.Containers[0].Args = []string{"$(A)"}
	job.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", Value: "1"}}
	result, errs := Job(job, o)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	got := result.Set.Spec.Template.Spec
	if !slices.Equal(got.Command, []string{"/entrypoint", "$$(A)"}) || !slices.Equal(got.Args, []string{"$(A)"}) || len(got.Env) != 1 {
		t.Errorf("got command %q, args %q and env %v; want the entrypoint as it is, and the rest of the Job", got.Command, got.Args, got.Env)
	}
}

// TestNameOfACronJob: a CronJob with a dot in its name cannot be converted. Its sets have the names of its Jobs.
func TestNameOfACronJob(t *testing.T) {
	cron := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "a.b"}}
	cron.Spec.JobTemplate.Spec = minimalJob().Spec
	if _, errs := CronJob(cron, testOptions); len(errs) != 1 || errs[0].Field != "metadata.name" {
		t.Errorf("got errors %v, want one of metadata.name", errs)
	}
}

// TestReferencesExpandAsInAJob: the kubelet replaces references in a container as leat-worker does in a task, after the
// env of the task is written with references.
func TestReferencesExpandAsInAJob(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "plain": "plain", "$": "$$", "a$b": "a$$b", "$$": "$$", "$$(A)": "$$(A)", "$(A)": "<A>", "$(A": "$$(A", "$()": "<>",
		"$(A)$(B)": "<A><B>", "$$$(A)": "$$<A>", "x$(A b)y": "x<A b>y",
	} {
		if got := expand(text, func(name string) string { return "<" + name + ">" }); got != want {
			t.Errorf("expand(%q): got %q, want %q", text, got, want)
		}
	}
}

// TestEnvironmentOfTasks: tasks have the variables to which the command refers, with the values of the Job.
func TestEnvironmentOfTasks(t *testing.T) {
	job := minimalJob()
	container := &job.Spec.Template.Spec.Containers[0]
	container.Env = []corev1.EnvVar{
		{Name: "A", Value: "1"}, {Name: "B", Value: "$(A)-$(C)"}, {Name: "C", Value: "3"}, {Name: "A", Value: "$(A)$(B)$$"}, {Name: "UNUSED", Value: "x"},
	}
	container.Args = []string{"$(A)", "$(D)"}
	result, errs := Job(job, testOptions)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	want := []batch.EnvVar{{Name: "A", Value: "11-$$(C)$$"}}
	if got := result.Set.Spec.Template.Spec.Env; !slices.Equal(got, want) {
		t.Errorf("got env %v, want %v", got, want)
	}
}

func TestPoolName(t *testing.T) {
	long := strings.Repeat("abc.", 15) + "end"
	for name, want := range map[string]string{"frames": "frames", "a.b": "a-b", strings.Repeat("x", 52): strings.Repeat("x", 52)} {
		if got := PoolName(name); got != want {
			t.Errorf("PoolName(%q): got %q, want %q", name, got, want)
		}
	}
	got := PoolName(long)
	if len(got) > maxPoolName || CheckPoolName(got) != nil || got == PoolName(long+"s") || got != PoolName(long) {
		t.Errorf("PoolName(%q): got %q, want a name of its own with at most %d characters", long, got, maxPoolName)
	}
	for _, name := range []string{"", "A", "a.b", strings.Repeat("x", 53)} {
		if CheckPoolName(name) == nil {
			t.Errorf("CheckPoolName(%q): got no error", name)
		}
	}
}

// TestLargestNumberOfWorkers: a pool has as many workers as the Job may have pods, unless the options say otherwise.
func TestLargestNumberOfWorkers(t *testing.T) {
	for _, tc := range []struct {
		parallelism, completions *int32
		limit, want              int32
	}{
		{nil, nil, 0, 1}, {new(int32(0)), nil, 0, 1}, {new(int32(7)), nil, 0, 7}, {new(int32(7)), new(int32(3)), 0, 3},
		{new(int32(7)), new(int32(100)), 0, 7}, {new(int32(1 << 20)), nil, 0, pool.MaxWorkers}, {new(int32(7)), nil, 20, 20},
	} {
		job := minimalJob()
		job.Spec.Parallelism, job.Spec.Completions = tc.parallelism, tc.completions
		o := testOptions
		o.Max = tc.limit
		result, errs := Job(job, o)
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		settings, err := pool.Parse(result.Pool.Workers)
		if err != nil {
			t.Fatal(err)
		}
		if settings.Max != tc.want {
			t.Errorf("%+v: got at most %d workers, want %d", tc, settings.Max, tc.want)
		}
	}
}

// TestNamesThatAreTaken: a Job may use the names of the worker's volumes and of its init container.
func TestNamesThatAreTaken(t *testing.T) {
	job := minimalJob()
	spec := &job.Spec.Template.Spec
	spec.Containers[0].Name = "leat-worker"
	spec.InitContainers = []corev1.Container{{Name: "leat-worker-2"}}
	spec.Volumes = []corev1.Volume{{Name: "leat-state"}}
	result, errs := Job(job, testOptions)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	got := result.Pool.Workers.Spec.Template.Spec
	if got.InitContainers[0].Name != "leat-worker-3" || got.Volumes[3].Name != "leat-state-2" || got.Containers[0].VolumeMounts[2].Name != "leat-state-2" {
		t.Errorf("got init container %s, volume %s and mount %s; want leat-worker-3 and leat-state-2",
			got.InitContainers[0].Name, got.Volumes[3].Name, got.Containers[0].VolumeMounts[2].Name)
	}
}

func TestReadErrorsNameTheDocument(t *testing.T) {
	for text, want := range map[string]string{
		"kind: Job\napiVersion: batch/v1\nspec: {paralelism: 1}\n": `document 1: Job : strict decoding error: unknown field "spec.paralelism"`,
		"apiVersion: v1\nkind: Secret\n---\napiVersion: v1\n":      "document 2: kind is missing",
		"apiVersion: batch/v1beta1\nkind: CronJob\n":               `must be batch/v1`,
		"apiVersion: v1\nkind: List\nitems: [{}]\n":                "document 1: items[0]: kind is missing",
		"a: [\n": "document 1: ",
		"apiVersion: batch/v1\nkind: Job\nspec: {parallelism: \"many\"}\n": "parallelism",
	} {
		if _, err := Read(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got error %v, want %q", text, err, want)
		}
	}
	objects, err := Read(strings.NewReader("---\n# nothing\n---\n{\"apiVersion\": \"v1\", \"kind\": \"Secret\"}\n"))
	if err != nil || len(objects) != 1 {
		t.Errorf("got objects %v and error %v, want the Secret", objects, err)
	}
}

// randomJob returns a Job whose fields have random values.
func randomJob(seed int64) *batchv1.Job {
	job := &batchv1.Job{}
	randfill.NewWithSeed(seed).NilChance(0.6).NumElements(0, 2).MaxDepth(12).Funcs(
		func(q *resource.Quantity, c randfill.Continue) {
			*q = *resource.NewQuantity(c.Int63n(1000), resource.DecimalSI)
		},
		func(t *metav1.Time, c randfill.Continue) {},
		func(v *intstr.IntOrString, c randfill.Continue) { *v = intstr.FromInt32(c.Int31()) },
		func(f *metav1.FieldsV1, c randfill.Continue) {},
		func(s *string, c randfill.Continue) {
			texts := []string{"", "a", "$(A)", "$(B)-$$", "/opt/leat", "linux", "metadata.annotations['batch.kubernetes.io/job-completion-index']", "KUBECONFIG"}
			*s = texts[c.Intn(len(texts))]
		},
	).Fill(job)
	return job
}

// TestAnyJobConverts: the conversion of any Job ends without a panic, has the same result when it is repeated, and does
// not change the Job.
func TestAnyJobConverts(t *testing.T) {
	converted := 0
	for seed := range int64(50) {
		job := randomJob(seed)
		checkStable(t, job)
		// Without what is refused, the rest of the conversion runs too.
		pod := &job.Spec.Template.Spec
		clearRefused(&jobTable, &job.Spec)
		clearRefused(&templateMetadataTable, &job.Spec.Template.ObjectMeta)
		clearRefused(&podTable, pod)
		pod.Containers = append(pod.Containers, corev1.Container{})[:1]
		clearRefused(&containerTable, &pod.Containers[0])
		pod.Containers[0].Command, pod.Containers[0].VolumeMounts = []string{"work"}, nil
		pod.RestartPolicy, pod.OS, job.Spec.PodFailurePolicy = corev1.RestartPolicyNever, nil, nil
		if checkStable(t, job) {
			converted++
		}
		cron := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "cron"}}
		cron.Spec.JobTemplate.Spec = job.Spec
		_, _ = CronJob(cron, testOptions)
	}
	if converted < 15 {
		t.Errorf("got %d of 50 random Jobs converted, want 15 or more: set fewer fields", converted)
	}
}

// checkStable checks that two conversions of a Job are equal, and that the Job stays as it is. It reports whether the
// Job can be converted.
func checkStable(t *testing.T, job *batchv1.Job) bool {
	t.Helper()
	before := job.DeepCopy()
	first, errs := Job(job, testOptions)
	second, errs2 := Job(job, testOptions)
	if !apiequality.Semantic.DeepEqual(first, second) || fmt.Sprint(errs) != fmt.Sprint(errs2) {
		t.Errorf("got another result at the second time")
	}
	if !apiequality.Semantic.DeepEqual(before, job) {
		t.Errorf("the conversion changed its argument")
	}
	if first == nil {
		return false
	}
	manifest, err := first.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	again, err := second.Manifest()
	if err != nil || !bytes.Equal(manifest, again) {
		t.Errorf("got another manifest at the second time, error %v", err)
	}
	return true
}

func clearRefused(table *Table, holder any) {
	v := reflect.ValueOf(holder).Elem()
	for i, name := range table.Names() {
		if table.Fields[name].Effect == Refused {
			v.Field(i).SetZero()
		}
	}
}
