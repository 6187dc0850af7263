#!/usr/bin/env bash
# Install the project and all it needs into .venv. Does nothing when that is up to date.
#   KUMITE_EXTRA=cpu|gpu|none   which vLLM: the CPU build, the CUDA build, or none (endpoint policies)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "setup: $*" >&2
    exit 1
}

fits() { # a Python that runs and is of a supported version
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

find_python() {
    local name
    for name in python3.11 python3.12 python3.13 python3; do
        if fits "$name"; then
            command -v "$name"
            return
        fi
    done
    fail "no Python 3.11, 3.12 or 3.13 on PATH; install one (Debian, Ubuntu: apt-get install python3 python3-venv)"
}

can_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

make_venv() {
    local python package
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        can_apt || fail "$python cannot make virtual environments; install $package"
        quietly 300 apt-get update
        DEBIAN_FRONTEND=noninteractive quietly 600 apt-get install -y --no-install-recommends "$package"
    fi
    quietly 300 "$python" -m venv --clear .venv
}

quietly() { # seconds command…: shows what the command printed only if it fails
    if ! timeout "$1" "${@:2}" >"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        fail "this failed: ${*:2}"
    fi
}

find_uv() { # prints a uv that knows dependency groups and torch backends
    local uv options
    for uv in .venv/bin/uv "$(command -v uv || true)"; do
        options=$("$uv" pip install --help 2>/dev/null || true)
        if [[ $options == *--torch-backend* && $options == *--group* ]]; then
            echo "$uv"
            return
        fi
    done
}

pip_setting() { # environment variable, name in pip's configuration files: uv reads neither
    local value=${!1:-}
    echo "${value:-$(.venv/bin/python -m pip config get "global.$2" 2>/dev/null || true)}"
}

cpu_torch_source() { # prints uv's options for finding torch's CPU build
    local place backend=--torch-backend=cpu
    for place in $(pip_setting PIP_FIND_LINKS find-links); do
        echo --find-links "$place"
        if compgen -G "$place/torch-*+cpu-*.whl" >/dev/null; then backend=; fi
    done
    echo "$backend"
}

extra=${KUMITE_EXTRA:-}
if [ -z "$extra" ]; then
    extra=cpu
    if timeout 10 nvidia-smi >/dev/null 2>&1; then extra=gpu; fi
fi
case "$extra" in
cpu | none) constraints="constraints.txt" ;;
gpu) constraints="constraints-gpu.txt" ;;
*) fail "KUMITE_EXTRA is '$extra'; it can be cpu, gpu or none" ;;
esac

exec 9<.
flock -w 1800 9 || fail "another set-up of this folder has been running for 30 minutes"

key=$({ echo "$extra $PWD" && cat pyproject.toml "$constraints"; } | sha256sum | cut -d' ' -f1)
stamp=.venv/.kumite-setup
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$key" ] && fits .venv/bin/python; then
    echo "setup: .venv is up to date"
    exit
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
SECONDS=0
echo "setup: installing into .venv (extra: $extra); on a new machine this downloads about 1 GB"
if ! fits .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then make_venv; fi
uv=$(find_uv)
if [ -z "$uv" ]; then
    quietly 300 .venv/bin/python -m pip install --quiet 'uv>=0.8'
    uv=.venv/bin/uv
fi
index=$(pip_setting PIP_INDEX_URL index-url)
if [ -n "$index" ]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}; fi
install=(quietly 1800 "$uv" pip install --compile-bytecode --python .venv/bin/python --constraints "$constraints")
case "$extra" in
cpu) # in a step of its own, since the place that has torch's CPU build need not have all of its neighbours
    # shellcheck disable=SC2046
    "${install[@]}" $(cpu_torch_source) torch
    "${install[@]}" --editable ".[cpu,train]" --group dev --group torch-tests
    ;;
gpu) "${install[@]}" --torch-backend=auto --editable ".[gpu,train]" --group dev --group torch-tests ;;
none) "${install[@]}" --editable . --group dev ;;
esac
echo "$key" >"$stamp"
echo "setup: done in ${SECONDS} s, with $(.venv/bin/python --version)"
