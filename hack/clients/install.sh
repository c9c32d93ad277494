#!/usr/bin/env bash
# Installs the clients for "make clients": an old kubectl into bin/clients, Debian's python3-kubernetes, and the
# packages of hack/clients/node.
set -euo pipefail
cd "$(dirname "$0")/../.."

command -v npm >/dev/null || {
  echo "npm is missing: install Node.js 20 or later with npm, then try again" >&2
  exit 1
}
(cd hack/clients/kubectl && go build -o ../../../bin/clients/kubectl .)
npm --prefix hack/clients/node ci --no-audit --no-fund --silent
/usr/bin/python3 -c 'import kubernetes' 2>/dev/null && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "the Python client is missing: install the package python3-kubernetes, then try again" >&2
  exit 1
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-kubernetes >/dev/null
