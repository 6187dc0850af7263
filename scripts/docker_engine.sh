#!/usr/bin/env bash
# Make a Docker engine answer: do nothing if one does; as root on Debian or Ubuntu, install and start one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

socket=/var/run/docker.sock
log=/var/log/kumite-dockerd.log
start_limit=90 # seconds

say() { echo "docker engine: $*"; }

fail() {
    echo "docker engine: $*" >&2
    exit 1
}

python=python3
if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi

# Asks where the project's own client asks: contexts of the docker command do not count there. Needs neither
# that command nor any package, unless DOCKER_HOST names another machine.
answers() {
    case "${DOCKER_HOST:-unix://$socket}" in
    unix://*) timeout 10 "$python" - "${DOCKER_HOST:-unix://$socket}" ;;
    *) timeout 20 "$python" -c 'import docker; docker.from_env(timeout=15).ping()' || timeout 20 docker version ;;
    esac >/dev/null 2>&1 <<'PYTHON'
import socket, sys
with socket.socket(socket.AF_UNIX) as engine:
    engine.settimeout(8)
    engine.connect(sys.argv[1].removeprefix("unix://"))
    engine.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
    sys.exit(b" 200 " not in engine.recv(64))
PYTHON
}

version() { timeout 10 docker version --format '{{.Server.Version}}' 2>/dev/null || echo "version unknown"; }

quietly() { # seconds command…: shows what the command printed only if it fails
    local output
    if ! output=$(timeout "$1" "${@:2}" 2>&1 </dev/null); then
        tail -n 20 <<<"$output" >&2
        fail "this failed: ${*:2}"
    fi
}

install_engine() {
    if ! command -v apt-get >/dev/null; then
        fail "dockerd is not installed; install Docker Engine, then run this again"
    fi
    say "installing docker.io"
    quietly 300 apt-get update
    # With what it recommends: the docker command, and the cgroup mounts of a machine without systemd.
    DEBIAN_FRONTEND=noninteractive quietly 900 apt-get install -y docker.io
}

alive() { # pid file, program: whether the file names a process of that program
    local pid
    pid=$(cat "$1" 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ]
}

remove_stale_pid_files() { # an engine that was killed leaves them, and another refuses to start beside them
    if ! alive /var/run/docker/containerd/containerd.pid containerd; then
        rm -f /var/run/docker/containerd/containerd.pid
    fi
    if ! alive /var/run/docker.pid dockerd; then rm -f /var/run/docker.pid; fi
}

start_engine() {
    if [ -d /run/systemd/system ]; then
        quietly "$start_limit" systemctl start docker
        return
    fi
    remove_stale_pid_files
    if ! alive /var/run/docker.pid dockerd; then
        say "starting dockerd, log in $log"
        setsid dockerd >>"$log" 2>&1 </dev/null 9>&- &
    fi
}

if answers; then
    say "answers ($(version))"
    exit
fi
if [ "${DOCKER_HOST:-unix://$socket}" != "unix://$socket" ]; then
    fail "none answers at DOCKER_HOST=$DOCKER_HOST; start it, or unset DOCKER_HOST to use a local one"
fi
if [ "$(id -u)" != 0 ]; then
    if [ -S "$socket" ] && [ ! -w "$socket" ]; then
        fail "no permission for $socket; run: sudo usermod -aG docker $(id -un), and log in again"
    fi
    fail "none answers at $socket; run: sudo apt-get install docker.io, and sudo systemctl start docker"
fi

exec 9>/var/lock/kumite-docker-engine
flock -w 1200 9 || fail "another process has been starting it for 20 minutes"
SECONDS=0
if ! answers; then
    command -v dockerd >/dev/null || install_engine
    answers || start_engine
    deadline=$((SECONDS + start_limit))
    until answers; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            tail -n 20 "$log" >&2 || true
            fail "dockerd does not answer after $start_limit s; its log is $log"
        fi
        sleep 0.5
    done
fi
say "answers ($(version)), after ${SECONDS} s"
