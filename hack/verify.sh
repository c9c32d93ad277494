#!/usr/bin/env bash
# Fails if generated code, go.mod or go.sum differ from the output of "make generate" and "go mod tidy".
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "$(git status --porcelain)" ]; then
  echo "verify: the tree has changes that are not committed: commit them first" >&2
  git status --short >&2
  exit 1
fi
hack/generate.sh
go mod tidy
(cd hack/host && go mod tidy)
(cd hack/helm && go mod tidy)
(cd hack/versitygw && go mod tidy)
(cd hack/release && go mod tidy)
if [ -n "$(git status --porcelain)" ]; then
  echo 'verify: these files are not what "make generate" and "go mod tidy" make: run them and commit the result' >&2
  git status --short >&2
  git diff >&2
  exit 1
fi
