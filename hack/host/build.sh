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

# Builds etcd with etcdctl and etcdutl, kube-apiserver, kube-controller-manager, kubectl and
# helm, or those of them that are named, from the pinned dependencies of this module and of
# hack/helm, and skips those that are up to date.
#
#   hack/host/build.sh [OUTDIR [PROGRAM...]]      OUTDIR defaults to <repository>/bin/host

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

build() { # name, module, main package, flags for the linker
  cd "$here/../$2"
  # What a binary depends on: the pinned sources, the flags, the toolchain.
  local stamp
  stamp=$(cat go.mod go.sum <(echo "$4") <(go version) | sha256sum | cut -d' ' -f1)
  if [[ -x $out/$1 && $(cat "$out/.$1.stamp" 2>/dev/null) == "$stamp" ]]; then
    echo "$1: up to date"
    return
  fi
  rm -f "$out/.$1.stamp"
  echo "$1: building"
  go build -o "$out/$1" -ldflags "$4" "$3"
  echo "$stamp" >"$out/.$1.stamp"
}

declare -A packages=(
  [etcd]=go.etcd.io/etcd/server/v3
  [etcdctl]=go.etcd.io/etcd/etcdctl/v3
  [etcdutl]=go.etcd.io/etcd/etcdutl/v3
  [helm]=helm.sh/helm/v4/cmd/helm
  [kubectl]=k8s.io/kubernetes/cmd/kubectl
  [kube-apiserver]=k8s.io/kubernetes/cmd/kube-apiserver
  [kube-controller-manager]=k8s.io/kubernetes/cmd/kube-controller-manager
)
if [[ $# == 0 ]]; then
  set -- etcd etcdctl etcdutl kubectl kube-apiserver kube-controller-manager helm
fi
for program in "$@"; do
  case $program in
    helm) build helm helm "${packages[helm]}" "-s -w" ;;
    *) build "$program" host "${packages[$program]}" "$ldflags" ;;
  esac
done
