# A day in a group that shares workers: a night's work leaves room for others, and is stopped and continued.
kubectl apply -f - <<'END'
apiVersion: batch.leat.dev/v1alpha1
kind: TaskQueue
metadata: {name: bulk}
spec: {weight: 1, maxRunningTasks: 4}
---
apiVersion: batch.leat.dev/v1alpha1
kind: TaskQueue
metadata: {name: people}
spec: {weight: 10}
END
leat run --queue bulk --name archive --array 0-99 --chunk 1 -- sh -c "while ! [ -e '$PWD/night' ]; do sleep 0.1; done"
leat wait archive --for start

# The night's work never takes more than its share: others start at once, and have their result.
leat run --queue people --name question --wait --logs -- echo 42 | grep -qx 42
leat run --queue people --array 1-20 --name questions --wait -- true
leat top --once | tee now
grep -q 'bulk' now
leat list | grep 'taskset/archive .*Running'

# Somebody needs the machines for an hour. The work stops, and is continued later.
leat suspend archive
leat list | grep 'taskset/archive .*Suspended'
leat explain archive | grep 'leat resume'
leat resume archive

# A part of it turns out to be useless.
leat cancel archive --index 90-99
touch night
fails leat wait archive 2>errors
grep -q '90 of 100 succeeded' errors

# Something that no worker has explains itself, and can be taken back.
leat run --queue people --name enormous --memory 100Ti -- true
leat explain enormous | tee why
grep -q 'memory' why
leat cancel enormous
kubectl delete taskqueues bulk people
