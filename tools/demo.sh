#!/bin/sh
# The demo: one prompt over the models in the box. Everything it makes lies under demo/, nothing in your home.
set -eu
cd "$(dirname "$0")/.."

IMAGEN_HOME="$PWD/demo/home" .venv/bin/imagen compare "a happy robot" --models tiny-3d,tiny-flat,tiny-noto --seed 1 -o demo/robot
