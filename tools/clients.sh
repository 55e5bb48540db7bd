#!/bin/sh
# Installs the programs of others that imagen is tested with, each into an environment of its own under .venv/clients:
# what they are built on does not fit beside what we are built on. 1.1 GiB, and a few minutes.
set -eu
cd "$(dirname "$0")/.."

python=.venv/bin/python

environment() { # NAME: an empty one, unless a finished one is there
    [ -e ".venv/clients/$1/made" ] && return 1
    echo "imagen: installing $1 into .venv/clients (only the first time)" >&2
    "$python" -m venv --clear ".venv/clients/$1"
}

in_it() { # NAME WHAT…: its own pip, as ours may be without one
    name=$1
    shift
    ".venv/clients/$name/bin/python" -m pip --quiet --disable-pip-version-check "$@"
}

if environment litellm-1.106.2; then
    in_it litellm-1.106.2 install litellm==1.106.2
    touch .venv/clients/litellm-1.106.2/made
fi

# The wheel of Open WebUI asks for torch and much else for models of its own. It comes with a list for its slim image,
# which talks to other servers instead, as it is meant to here.
if ! "$python" -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; then
    echo "imagen: Open WebUI 0.12.4 runs on Python 3.11 and 3.12; name one of them: make PYTHON=python3.12 clean clients" >&2
    exit 1
fi
if environment open-webui-0.12.4; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    in_it open-webui-0.12.4 download --no-deps --dest "$work" open-webui==0.12.4
    (cd "$work" && "$OLDPWD/$python" -m zipfile --extract open_webui-*.whl wheel)
    in_it open-webui-0.12.4 install --requirement "$work/wheel/requirements-slim.txt"
    in_it open-webui-0.12.4 install --no-deps "$work"/open_webui-*.whl
    touch .venv/clients/open-webui-0.12.4/made
fi
