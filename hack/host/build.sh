#!/usr/bin/env bash
# Copyright The Leat Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

# Builds etcd, etcdctl, etcdutl, kube-apiserver, kube-controller-manager, kubectl, helm and versitygw, or only the given
# programs, from the pinned dependencies of this module, of hack/helm and of hack/versitygw. Each program is linked once
# for each set of sources, flags and toolchain. It is cached outside of the tree in the user's cache directory, so that
# a new clone reuses it.
#
#   hack/host/build.sh [OUTDIR [PROGRAM...]]      OUTDIR defaults to <repository>/bin/host
#
# LEAT_HOST_CACHE names another directory for the cache.

set -o errexit -o nounset -o pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-$here/../../bin/host}
shift || true
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$here"

export CGO_ENABLED=0 GOWORK=off

version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
IFS=. read -r major minor _ <<<"${version#v}"
ldflags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  ldflags+=" -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
  ldflags+=" -X $package.gitTreeState=clean"
done

cache=${LEAT_HOST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/leat/host}
mkdir -p "$cache"

build() { # name, module, main package, flags for the linker
  cd "$here/../$2"
  # The key has everything that the binary depends on: pinned sources, package, flags and toolchain.
  local key cached
  key=$(cat go.mod go.sum <(echo "$3" "$4") <(go version) | sha256sum | cut -d' ' -f1)
  cached=$cache/$1-$key
  if [[ -x $cached ]]; then
    touch "$cached"
  else
    echo "$1: building"
    # Concurrent builds may write the same program. Each writes its own file and renames it when it is complete.
    go build -o "$cached.$$" -ldflags "$4" "$3"
    mv "$cached.$$" "$cached"
    find "$cache" -name "$1-*" -mtime +30 -delete
  fi
  if [[ ! $cached -ef $out/$1 ]]; then
    # Link if the file system allows it. Replace the old program instead of overwriting it: it may be running.
    ln -f "$cached" "$out/$1.$$" 2>/dev/null || cp "$cached" "$out/$1.$$"
    mv "$out/$1.$$" "$out/$1"
  fi
  echo "$1: up to date"
}

declare -A packages=(
  [etcd]=go.etcd.io/etcd/server/v3
  [etcdctl]=go.etcd.io/etcd/etcdctl/v3
  [etcdutl]=go.etcd.io/etcd/etcdutl/v3
  [helm]=helm.sh/helm/v4/cmd/helm
  [kubectl]=k8s.io/kubernetes/cmd/kubectl
  [kube-apiserver]=k8s.io/kubernetes/cmd/kube-apiserver
  [kube-controller-manager]=k8s.io/kubernetes/cmd/kube-controller-manager
  [versitygw]=github.com/versity/versitygw/cmd/versitygw
)
if [[ $# == 0 ]]; then
  set -- etcd etcdctl etcdutl kubectl kube-apiserver kube-controller-manager helm versitygw
fi
for program in "$@"; do
  case $program in
    helm | versitygw) build "$program" "$program" "${packages[$program]}" "-s -w" ;;
    *) build "$program" host "${packages[$program]}" "$ldflags" ;;
  esac
done
