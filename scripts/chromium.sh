#!/usr/bin/env bash
# Optional: installs Chromium (Debian or Ubuntu, as root), in which tests open the viewer's pages.
set -euo pipefail

for name in chromium google-chrome chrome; do
    if command -v "$name" >/dev/null; then
        echo "chromium: there is $(command -v "$name")"
        exit
    fi
done
fail() { echo "chromium: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "must be root"
command -v apt-get >/dev/null || fail "is not installed; install it, then run the tests again"
export DEBIAN_FRONTEND=noninteractive
if ! timeout 900 apt-get install -y --no-install-recommends chromium </dev/null; then
    timeout 300 apt-get update </dev/null
    timeout 900 apt-get install -y --no-install-recommends chromium </dev/null
fi
echo "chromium: installed"
