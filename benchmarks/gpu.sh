#!/bin/sh
# All that matters on a GPU, in at most eight minutes, into one JSON file. Needs this repository, torch and a GPU;
# with transformers, its steps are timed, too.
#
#     benchmarks/gpu.sh [--out gpu.json] [--minutes 8] [--device cuda|cpu] [--small] [--only steps,memory]
set -e
cd "$(dirname "$0")/.."
exec env PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" "${PYTHON:-python3}" benchmarks/gpu.py "$@"
