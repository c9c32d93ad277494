#!/usr/bin/env bash
# Checks format, common mistakes, the import arrows, and the links between pages.
set -euo pipefail
cd "$(dirname "$0")/.."

unformatted=$(gofmt -l -s apis cmd config hack pkg test | grep -v testdata || true)
if [ -n "$unformatted" ]; then
  echo "lint: gofmt -s -w these files:" "$unformatted" >&2
  exit 1
fi
go vet -tags cluster ./...
# Generated code calls what upstream has deprecated since.
go list -tags cluster ./... | grep -v /pkg/generated/ | xargs go tool staticcheck -tags cluster
go run ./hack/arrows
go run ./hack/doclinks
