#!/usr/bin/env bash
# Installs Debian's protobuf-compiler if it is missing.
set -euo pipefail
command -v protoc >/dev/null && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "protoc is missing: install the package protobuf-compiler, then try again" >&2
  exit 1
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends protobuf-compiler >/dev/null
