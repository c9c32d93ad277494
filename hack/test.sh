#!/usr/bin/env bash
# Runs all tests, those with concurrency with the race detector, and prints the slowest packages, also after a failure.
#
#   hack/test.sh [DURATION]      DURATION of chaos and soak, 1m by default
#
# "make test" builds the programs that the tests start.
set -euo pipefail
cd "$(dirname "$0")/.."
duration=${1:-1m}

times=$(mktemp)

failed=0
run() { # flags and packages of go test; "make lint" vets
  go test -vet=off "$@" | tee -a "$times" || failed=1
}

summary() {
  echo "slowest packages:"
  awk '$1 == "ok" || $1 == "FAIL" { for (i = 3; i <= NF; i++) if ($i ~ /^[0-9.]+s$/) print substr($i, 1, length($i) - 1), $2 }' "$times" |
    sort -rn | head -20 | awk '{ printf "  %7.1f s  %s\n", $1, $2 }'
}
trap 'summary; rm -f "$times"' EXIT

run -race ./apis/... ./cmd/... ./config/... ./pkg/...
# Generators and lints have no concurrency, and take ten times as long with the race detector.
run ./hack/...
(cd hack/host && go test ./...) || failed=1
(cd hack/release && go test ./...) || failed=1
# Two packages at a time: each starts its own control planes and waits for them most of the time.
run -race -p 2 -timeout 30m $(go list ./test/... | grep -v -e /test/chaos$ -e /test/perf/cost$)
# It measures CPU time, which the race detector multiplies by a factor that depends on the work.
run ./test/perf/cost
# Chaos and soak run beside each other.
run -race -timeout 60m ./test/chaos -args -duration="$duration"
exit $failed
