#!/usr/bin/env bash
# Checks format, common mistakes, import arrows, links between pages and the words of comments.
set -euo pipefail
cd "$(dirname "$0")/.."

unformatted=$(gofmt -l -s apis cmd config hack pkg test | grep -v testdata || true)
if [ -n "$unformatted" ]; then
  echo "lint: gofmt -s -w these files:" "$unformatted" >&2
  exit 1
fi
go vet -tags cluster ./...
# Generated code calls deprecated functions of upstream. ST1020 to ST1022 demand doc comments in the form that Go
# documentation expects.
go list -tags cluster ./... | grep -v /pkg/generated/ | xargs go tool staticcheck -tags cluster -checks inherit,ST1020,ST1021,ST1022
go run ./hack/arrows
go run ./hack/doclinks
go run ./hack/words
