#!/usr/bin/env bash
# Tests a whole installation, from apply to delete, on the cluster of $KUBECONFIG.
#
#   LEAT_IMAGE       image of Leat that the nodes can pull
#   LEAT_ETCD_IMAGE  image of etcd (default: that of config/default)
#   LEAT_VOLUMES     directory for volumes on the only node, if the cluster has no default StorageClass
#   LEAT_E2E_ARGS    flags of the tests, like -job-completions=10000
#   LEAT_CLUSTER     without KUBECONFIG: program that starts a cluster on this machine, with the commands "up", "image",
#                    "load" and "down"
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${KUBECONFIG:-}" ]; then
  if [ -z "${LEAT_CLUSTER:-}" ]; then
    echo 'e2e-cluster: set KUBECONFIG and LEAT_IMAGE, or LEAT_CLUSTER to a program that boots a cluster' >&2
    exit 2
  fi
  hack/host/build.sh bin/host etcd etcdctl etcdutl
  images=$(mktemp -d)
  LEAT_VOLUMES=$(mktemp -d)
  export LEAT_VOLUMES
  trap 'rm -rf "$images" "$LEAT_VOLUMES"' EXIT
  environment=$("$LEAT_CLUSTER" up)
  trap '"$LEAT_CLUSTER" down; rm -rf "$images" "$LEAT_VOLUMES"' EXIT
  eval "$environment"
  export LEAT_IMAGE=localhost/leat:e2e LEAT_ETCD_IMAGE=localhost/etcd:e2e
  # The same layout as in the Dockerfile and in etcd's image.
  ca=/etc/ssl/certs/ca-certificates.crt
  "$LEAT_CLUSTER" image "$LEAT_IMAGE" "$images/leat.tar" bin/leat /leat /leat-apiserver=bin/leat-apiserver \
    /leat-controller-manager=bin/leat-controller-manager /leat-worker=bin/leat-worker "$ca=$ca"
  "$LEAT_CLUSTER" image "$LEAT_ETCD_IMAGE" "$images/etcd.tar" bin/host/etcd /usr/local/bin/etcd \
    /usr/local/bin/etcdctl=bin/host/etcdctl /usr/local/bin/etcdutl=bin/host/etcdutl
  "$LEAT_CLUSTER" load "$images/leat.tar" "$images/etcd.tar"
fi
# shellcheck disable=SC2086 # several arguments
go test -tags cluster -count=1 -timeout 30m -v ./test/live ${LEAT_E2E_ARGS:+-args $LEAT_E2E_ARGS}
