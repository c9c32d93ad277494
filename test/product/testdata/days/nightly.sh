# A nightly pipeline from one file: extract, two transformations side by side, and a report that needs both.
cat >pipeline.yaml <<END
apiVersion: batch.leat.dev/v1alpha1
kind: TaskSet
metadata: {name: extract}
spec:
  completions: 20
  parallelism: 20
  completionMode: Indexed
  backoffLimitPerIndex: 0
  template: {spec: {workingDir: $PWD, command: [sh, -c, 'echo \$((TASK_INDEX * 2)) >in.\$TASK_INDEX']}}
---
apiVersion: batch.leat.dev/v1alpha1
kind: TaskSet
metadata: {name: square}
spec:
  completions: 20
  parallelism: 20
  completionMode: Indexed
  backoffLimitPerIndex: 0
  dependsOn: [{name: extract, perIndex: true}]   # each part as soon as its input is there
  template: {spec: {workingDir: $PWD, command: [sh, -c, 'read n <in.\$TASK_INDEX; echo \$((n * n)) >square.\$TASK_INDEX']}}
---
apiVersion: batch.leat.dev/v1alpha1
kind: TaskSet
metadata: {name: check}
spec:
  backoffLimit: 0
  dependsOn: [{name: extract}]
  template: {spec: {workingDir: $PWD, command: [sh, -c, 'ls in.19 && [ -e license ]']}}
---
apiVersion: batch.leat.dev/v1alpha1
kind: TaskSet
metadata: {name: report}
spec:
  dependsOn: [{name: square}, {name: check}]
  template: {spec: {workingDir: $PWD, command: [sh, -c, 'cat square.* | sort -n | tail -1 >report']}}
END
kubectl apply -f pipeline.yaml

# The night goes wrong. In the morning one command says where.
fails leat wait report 2>errors
grep -q 'DependencyFailed' errors
leat explain report | tee why
grep -q 'check' why
leat list --failed | tee failed
grep -q 'taskset/check' failed
leat logs check | grep 'in.19'
fails [ -e report ]

# The next night, with what was missing, from the same file.
touch license
kubectl delete -f pipeline.yaml
kubectl apply -f pipeline.yaml
leat wait report
grep -qx 1444 report
kubectl get taskset report
kubectl delete -f pipeline.yaml
