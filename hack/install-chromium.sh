#!/usr/bin/env bash
# Installs Debian's chromium, and a font, if it is missing. Tests of the page of "leat board" need it. LEAT_SKIP_BROWSER
# skips them, and this.
set -euo pipefail
if [ -n "${LEAT_SKIP_BROWSER:-}" ] || command -v chromium >/dev/null; then
  exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "chromium is missing: install the package chromium, or set LEAT_SKIP_BROWSER=1 to skip the tests in a browser" >&2
  exit 1
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
