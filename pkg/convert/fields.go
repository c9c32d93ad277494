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
	"reflect"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Effect is what a conversion does with a field.
type Effect string

const (
	// Kept fields stay as they are: in the pod template of the pool, or in the CronJob.
	Kept Effect = "kept"
	// Converted fields become fields of the set or of its tasks, or are set to what workers need.
	Converted Effect = "converted"
	// Refused fields must be unset.
	Refused Effect = "refused"
	// Ignored fields have no effect.
	Ignored Effect = "ignored"
)

// Field describes what a conversion does with a field of a Job.
type Field struct {
	Effect Effect
	// Text is what the field becomes, why it is ignored, or why it must be unset and what to do instead.
	Text string
	// unless is a value of a refused field that has no effect.
	unless string
	// noted means that an ignored field has an effect in a Job, and so deserves a note.
	noted bool
}

// Table describes what a conversion does with each field of a type.
type Table struct {
	// Path is where the type is in a Job or, for the CronJobSpec, in a CronJob.
	Path string
	// Type has the fields.
	Type reflect.Type
	// Fields are all fields of the type by their names in JSON.
	Fields map[string]Field
}

// Names returns the names of the fields of the type in JSON, in the order of the type.
func (t *Table) Names() []string {
	var names []string
	for i := range t.Type.NumField() {
		names = append(names, nameInJSON(t.Type.Field(i)))
	}
	return names
}

func nameInJSON(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// findings returns an error for each refused field of a value that is set, and a note for each ignored one that has an
// effect in a Job. The value is a pointer to the type of the table.
func (t *Table) findings(value any, path *field.Path) (field.ErrorList, []Note) {
	var errs field.ErrorList
	var notes []Note
	v := reflect.ValueOf(value).Elem()
	for i, name := range t.Names() {
		f, of := t.Fields[name], v.Field(i)
		for of.Kind() == reflect.Pointer && !of.IsNil() {
			of = of.Elem()
		}
		switch {
		case of.IsZero():
		case f.Effect == Refused && (f.unless == "" || f.unless != of.String()):
			errs = append(errs, field.Invalid(path.Child(name), shown(of), f.Text))
		case f.noted:
			notes = append(notes, Note{path.Child(name).String(), "ignored: " + f.Text})
		}
	}
	return errs, notes
}

// shown returns what an error shows of a value: a scalar itself, anything else not at all.
func shown(v reflect.Value) any {
	switch v.Kind() {
	case reflect.String, reflect.Bool, reflect.Int32, reflect.Int64:
		return v.Interface()
	}
	return field.OmitValueType{}
}

// Tables returns what a conversion does with each field of a Job and of a CronJob, in the order in which a person reads
// them.
func Tables() []*Table {
	return []*Table{&jobTable, &failurePolicyTable, &failureRuleTable, &exitCodesTable, &podConditionTable, &successPolicyTable, &successRuleTable,
		&templateTable, &templateMetadataTable, &podTable, &containerTable, &cronJobTable, &jobTemplateTable}
}

const (
	noPolicyByContainer = "an init container runs before all commands of a worker, and its failure is none of them"
	ownMetadata         = "the pods of a StatefulSet have their own"
	notTheCommand       = "it would act on the worker and not on the command: remove it"
	noHostNames         = "the pods of a pool have host names of their own, NAME-0 and so on: remove it, and have commands find each other in another way"
	together            = "the tasks of a set start one by one, not as a group: remove it if the commands do not wait for each other, else keep the Job"
)

var jobTable = Table{"spec", reflect.TypeFor[batchv1.JobSpec](), map[string]Field{
	"parallelism":             {Effect: Converted, Text: "`parallelism` of the set, and the largest number of workers unless `--max` sets another"},
	"completions":             {Effect: Converted, Text: "`completions` of the set"},
	"activeDeadlineSeconds":   {Effect: Converted, Text: "`activeDeadlineSeconds` of the set"},
	"podFailurePolicy":        {Effect: Converted, Text: "`taskFailurePolicy` of the set"},
	"successPolicy":           {Effect: Converted, Text: "`successPolicy` of the set"},
	"backoffLimit":            {Effect: Converted, Text: "`backoffLimit` of the set"},
	"backoffLimitPerIndex":    {Effect: Converted, Text: "`backoffLimitPerIndex` of the set"},
	"maxFailedIndexes":        {Effect: Converted, Text: "`maxFailedIndexes` of the set"},
	"selector":                {Effect: Ignored, Text: "the server generates the selector of a set"},
	"manualSelector":          {Effect: Ignored, Text: "the server generates the selector of a set"},
	"template":                {Effect: Converted, Text: "the pod template of the pool, and the task template of the set"},
	"ttlSecondsAfterFinished": {Effect: Converted, Text: "`ttlSecondsAfterFinished` of the set. The pool remains"},
	"completionMode":          {Effect: Converted, Text: "`completionMode` of the set"},
	"suspend":                 {Effect: Converted, Text: "`suspend` of the set"},
	"podReplacementPolicy":    {Effect: Ignored, Text: "a set replaces a task only when its command has ended, as with Failed"},
	"managedBy":               {Effect: Refused, Text: "another controller runs this Job: remove it, or keep the Job", unless: batchv1.JobControllerName},
	"scheduling":              {Effect: Refused, Text: together},
}}

var failurePolicyTable = Table{"spec.podFailurePolicy", reflect.TypeFor[batchv1.PodFailurePolicy](), map[string]Field{
	"rules": {Effect: Converted, Text: "`rules` of `taskFailurePolicy`"},
}}

var failureRuleTable = Table{"spec.podFailurePolicy.rules[]", reflect.TypeFor[batchv1.PodFailurePolicyRule](), map[string]Field{
	"action":          {Effect: Converted, Text: "`action`; FailJob becomes FailTaskSet"},
	"onExitCodes":     {Effect: Converted, Text: "`onExitCodes`"},
	"onPodConditions": {Effect: Converted, Text: "`onTaskConditions`. Only Ignore of DisruptionTarget can be converted: a task that loses its worker starts again and does not fail"},
}}

var exitCodesTable = Table{"spec.podFailurePolicy.rules[].onExitCodes", reflect.TypeFor[batchv1.PodFailurePolicyOnExitCodesRequirement](), map[string]Field{
	"containerName": {Effect: Converted, Text: "nothing. It must be the container with the command: " + noPolicyByContainer},
	"operator":      {Effect: Converted, Text: "`operator`"},
	"values":        {Effect: Converted, Text: "`values`"},
}}

var podConditionTable = Table{"spec.podFailurePolicy.rules[].onPodConditions[]", reflect.TypeFor[batchv1.PodFailurePolicyOnPodConditionsPattern](), map[string]Field{
	"type":   {Effect: Converted, Text: "`type`. It must be DisruptionTarget: tasks have no other condition of pods"},
	"status": {Effect: Converted, Text: "`status`"},
}}

var successPolicyTable = Table{"spec.successPolicy", reflect.TypeFor[batchv1.SuccessPolicy](), map[string]Field{
	"rules": {Effect: Converted, Text: "`rules` of `successPolicy`"},
}}

var successRuleTable = Table{"spec.successPolicy.rules[]", reflect.TypeFor[batchv1.SuccessPolicyRule](), map[string]Field{
	"succeededIndexes": {Effect: Converted, Text: "`succeededIndexes`"},
	"succeededCount":   {Effect: Converted, Text: "`succeededCount`"},
}}

var templateTable = Table{"spec.template", reflect.TypeFor[corev1.PodTemplateSpec](), map[string]Field{
	"metadata": {Effect: Kept},
	"spec":     {Effect: Kept, Text: "the fields below say with which changes"},
}}

var templateMetadataTable = Table{"spec.template.metadata", reflect.TypeFor[metav1.ObjectMeta](), map[string]Field{
	"labels":                     {Effect: Kept, Text: "the tasks have them too. Labels that the Job controller sets are removed"},
	"annotations":                {Effect: Kept},
	"finalizers":                 {Effect: Refused, Text: "nothing removes finalizers from the pods of a pool: remove it"},
	"name":                       {Effect: Ignored, Text: ownMetadata},
	"generateName":               {Effect: Ignored, Text: ownMetadata},
	"namespace":                  {Effect: Ignored, Text: ownMetadata},
	"selfLink":                   {Effect: Ignored, Text: ownMetadata},
	"uid":                        {Effect: Ignored, Text: ownMetadata},
	"resourceVersion":            {Effect: Ignored, Text: ownMetadata},
	"generation":                 {Effect: Ignored, Text: ownMetadata},
	"creationTimestamp":          {Effect: Ignored, Text: ownMetadata},
	"deletionTimestamp":          {Effect: Ignored, Text: ownMetadata},
	"deletionGracePeriodSeconds": {Effect: Ignored, Text: ownMetadata},
	"ownerReferences":            {Effect: Ignored, Text: ownMetadata},
	"managedFields":              {Effect: Ignored, Text: ownMetadata},
}}

var podTable = Table{"spec.template.spec", reflect.TypeFor[corev1.PodSpec](), map[string]Field{
	"volumes":                       {Effect: Kept, Text: "commands of a worker share each `emptyDir`. A downward API volume must not name labels that the Job controller sets"},
	"initContainers":                {Effect: Kept, Text: "they run once for each worker, not for each command, and so must not need the index. Sidecars (`restartPolicy: Always`) run beside the worker"},
	"containers":                    {Effect: Kept, Text: "exactly one; see below"},
	"ephemeralContainers":           {Effect: Refused, Text: "a pod template must not have them: remove it"},
	"restartPolicy":                 {Effect: Converted, Text: "Always, as a StatefulSet requires. With OnFailure as with Never, a failed command runs again as a new task, up to `backoffLimit`"},
	"terminationGracePeriodSeconds": {Effect: Converted, Text: "`terminationGracePeriodSeconds` of the tasks. Pods have more, so that their worker can stop commands"},
	"activeDeadlineSeconds":         {Effect: Converted, Text: "`activeDeadlineSeconds` of the tasks"},
	"dnsPolicy":                     {Effect: Kept},
	"nodeSelector":                  {Effect: Kept},
	"serviceAccountName":            {Effect: Kept, Text: "it gets the role `leat:worker`; so does `default` if it is unset"},
	"serviceAccount":                {Effect: Kept},
	"automountServiceAccountToken":  {Effect: Kept},
	"nodeName":                      {Effect: Kept},
	"hostNetwork":                   {Effect: Kept},
	"hostPID":                       {Effect: Kept},
	"hostIPC":                       {Effect: Kept},
	"shareProcessNamespace":         {Effect: Kept},
	"securityContext":               {Effect: Kept},
	"imagePullSecrets":              {Effect: Kept},
	"hostname":                      {Effect: Refused, Text: noHostNames},
	"subdomain":                     {Effect: Refused, Text: noHostNames},
	"affinity":                      {Effect: Kept, Text: "it must not select pods by labels that the Job controller sets"},
	"schedulerName":                 {Effect: Kept},
	"tolerations":                   {Effect: Kept},
	"hostAliases":                   {Effect: Kept},
	"priorityClassName":             {Effect: Kept},
	"priority":                      {Effect: Kept},
	"dnsConfig":                     {Effect: Kept},
	"readinessGates":                {Effect: Refused, Text: "workers that are not ready count as failing: remove it"},
	"runtimeClassName":              {Effect: Kept},
	"enableServiceLinks":            {Effect: Kept},
	"preemptionPolicy":              {Effect: Kept},
	"overhead":                      {Effect: Kept},
	"topologySpreadConstraints":     {Effect: Kept, Text: "they must not select pods by labels that the Job controller sets"},
	"setHostnameAsFQDN":             {Effect: Refused, Text: noHostNames},
	"os":                            {Effect: Kept, Text: "it must be linux: workers run on no other system"},
	"hostUsers":                     {Effect: Kept},
	"schedulingGates":               {Effect: Refused, Text: "nothing removes the gates of the pods of a pool: remove it, and set `suspend`"},
	"resourceClaims":                {Effect: Kept},
	"resources":                     {Effect: Kept},
	"hostnameOverride":              {Effect: Refused, Text: noHostNames},
	"schedulingGroup":               {Effect: Refused, Text: together},
	"evictionResponders":            {Effect: Kept},
}}

var containerTable = Table{"spec.template.spec.containers[]", reflect.TypeFor[corev1.Container](), map[string]Field{
	"name":                     {Effect: Kept},
	"image":                    {Effect: Kept},
	"command":                  {Effect: Converted, Text: "`command` of the tasks; that of the container is leat-worker. If it is unset, write the entrypoint of the image after `--`"},
	"args":                     {Effect: Converted, Text: "`args` of the tasks. A reference `$(NAME)` must not need a value from a Secret, a ConfigMap, the pod or a Service"},
	"workingDir":               {Effect: Kept},
	"ports":                    {Effect: Kept},
	"envFrom":                  {Effect: Kept, Text: "commands inherit the variables of the container"},
	"env":                      {Effect: Kept, Text: "commands inherit the variables of the container. Those to which the command refers, and those with the index or the name of the Job, are in `env` of the tasks too"},
	"resources":                {Effect: Kept, Text: "they must suffice for the command and leat-worker: add 64Mi of memory. The tasks request the devices among them"},
	"resizePolicy":             {Effect: Kept},
	"restartPolicy":            {Effect: Refused, Text: notTheCommand},
	"restartPolicyRules":       {Effect: Refused, Text: "it would act on the worker and not on the command: write a rule of podFailurePolicy"},
	"volumeMounts":             {Effect: Kept, Text: "not at, above or below /opt/leat, /etc/leat and /var/lib/leat-worker, which the worker needs"},
	"volumeDevices":            {Effect: Kept},
	"livenessProbe":            {Effect: Refused, Text: "it would act on the worker and not on the command: remove it, and set activeDeadlineSeconds in spec.template.spec"},
	"readinessProbe":           {Effect: Refused, Text: notTheCommand},
	"startupProbe":             {Effect: Refused, Text: notTheCommand},
	"lifecycle":                {Effect: Refused, Text: "it would act on the worker and not on the command: have the command do it"},
	"terminationMessagePath":   {Effect: Kept, Text: "the message of a task is the end of its output"},
	"terminationMessagePolicy": {Effect: Kept, Text: "the message of a task is the end of its output"},
	"imagePullPolicy":          {Effect: Kept},
	"securityContext":          {Effect: Kept},
	"stdin":                    {Effect: Ignored, Text: "the standard input of commands is empty", noted: true},
	"stdinOnce":                {Effect: Ignored, Text: "the standard input of commands is empty", noted: true},
	"tty":                      {Effect: Ignored, Text: "commands have no terminal", noted: true},
}}

var cronJobTable = Table{"spec of a CronJob", reflect.TypeFor[batchv1.CronJobSpec](), map[string]Field{
	"schedule":                   {Effect: Kept},
	"timeZone":                   {Effect: Kept},
	"startingDeadlineSeconds":    {Effect: Kept},
	"concurrencyPolicy":          {Effect: Kept, Text: "the Job waits for its set, and the set is deleted with the Job"},
	"suspend":                    {Effect: Kept},
	"jobTemplate":                {Effect: Converted, Text: "the pool, and a Job that creates the set and waits for it"},
	"successfulJobsHistoryLimit": {Effect: Kept, Text: "the set is deleted with its Job"},
	"failedJobsHistoryLimit":     {Effect: Kept, Text: "the set is deleted with its Job"},
}}

var jobTemplateTable = Table{"spec.jobTemplate of a CronJob", reflect.TypeFor[batchv1.JobTemplateSpec](), map[string]Field{
	"metadata": {Effect: Kept, Text: "the set has its labels and annotations too"},
	"spec":     {Effect: Converted, Text: "as the `spec` of a Job"},
}}
