#!/usr/bin/env bash
# Optional: installs gVisor's runsc (Debian or Ubuntu, as root) and tells the Docker engine of it.
# The engine must be restarted to know it; that ends running containers, so it is left to you.
set -euo pipefail

config=${DOCKER_CONFIG_FILE:-/etc/docker/daemon.json}

fail() { echo "gvisor: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "must be root"
if ! command -v runsc >/dev/null; then
    command -v apt-get >/dev/null || fail "runsc is not installed; see gvisor.dev, then run this again"
    DEBIAN_FRONTEND=noninteractive timeout 900 apt-get install -y runsc </dev/null
fi
# ptrace works where there is no KVM. Old builds of runsc fail on some cgroup set-ups, so it is told to leave
# them alone: the limits of a container then bind nothing, and docs/security.md says what follows.
python3 - "$config" "$(command -v runsc)" <<'PYTHON'
import json
import pathlib
import sys

file = pathlib.Path(sys.argv[1])
config = json.loads(file.read_text()) if file.exists() else {}
config.setdefault("runtimes", {})["runsc"] = {
    "path": sys.argv[2],
    "runtimeArgs": ["--network=none", "--ignore-cgroups", "--platform=ptrace"],
}
file.parent.mkdir(parents=True, exist_ok=True)
file.write_text(json.dumps(config, indent=2) + "\n")
PYTHON
echo "gvisor: runsc is in $config; restart the Docker engine, then \`kumite check\` lists it"
