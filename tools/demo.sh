#!/bin/sh
# The demo: one prompt over the bundled mock models. Everything it makes lies under demo/, nothing in your home.
set -eu
cd "$(dirname "$0")/.."

IMAGEN_HOME="$PWD/demo/home" .venv/bin/imagen compare "a lighthouse at dawn" --models mock,mock-warm,mock-cool --seed 7 -o demo/lighthouse
