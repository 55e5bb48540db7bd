#!/bin/sh
# Makes .venv when it is missing or unusable, and installs this checkout into it: venv.sh WHAT, where WHAT is `.` or `.[dev]`.
set -eu
cd "$(dirname "$0")/.."

OLDEST="3, 11" # the first Python with asyncio.timeout and StrEnum

say() { echo "imagen: $*" >&2; }

fits() { "$1" -c "import sys; sys.exit(sys.version_info < ($OLDEST))" >/dev/null 2>&1; }

find_python() {
    for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if fits "$name"; then echo "$name"; return; fi
    done
}

uv=$(command -v uv || true)

usable() {
    [ -x .venv/bin/python ] && fits .venv/bin/python && { [ -n "$uv" ] || .venv/bin/python -m pip --version >/dev/null 2>&1; }
}

if ! usable; then
    python=$(find_python)
    if [ -z "$python" ]; then
        first=${PYTHON:-python3}
        found=$("$first" --version 2>&1) || found="no $first"
        say "Python 3.11 or newer is needed, and here is $found."
        say "Install one, then name it: make PYTHON=/path/to/python3.12 setup"
        exit 1
    fi
    if [ -n "$uv" ]; then
        uv venv --quiet --clear --python "$python" .venv
    elif "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        "$python" -m venv --clear .venv
    else
        say "$("$python" --version) cannot make virtual environments: its venv package is missing. On Debian and Ubuntu:"
        say "    sudo apt install python3-venv"
        exit 1
    fi
fi

say "installing into .venv (only the first time)"
if [ -n "$uv" ]; then
    uv pip install --quiet --python .venv/bin/python --constraint constraints.txt --editable "$1"
else
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable "$1"
fi

# On Linux mflux asks for a gigabyte of CUDA, and everywhere for an older huggingface-hub than ours. The tests need neither.
if [ "$1" = '.[dev]' ]; then
    if [ -n "$uv" ]; then
        uv pip install --quiet --python .venv/bin/python --no-deps mflux==0.24.0
    else
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps mflux==0.24.0
    fi
fi
