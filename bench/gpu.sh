#!/usr/bin/env bash
# What an NVIDIA GPU gives, in one command: makes .venv-gpu (CUDA and cuDNN come with it, the driver is the machine's),
# checks that CUDA is really obtained, measures the models and the service on it, writes bench/out/gpu.json.
# Options: those of `python -m bench.gpu`. Exit status 3: there is no GPU, and nothing was installed or measured.
set -euo pipefail
cd "$(dirname "$0")/.."

gpus=$(nvidia-smi --list-gpus 2>/dev/null) || gpus=
if [[ -z $gpus ]]; then
  echo "bench/gpu.sh: there is no NVIDIA GPU here (nvidia-smi lists none), so nothing was measured" >&2
  exit 3
fi
echo "$gpus" >&2

environment=.venv-gpu
if [[ ! -e $environment/.ready || pyproject.toml -nt $environment/.ready || deploy/constraints-gpu.txt -nt $environment/.ready ]]; then
  "${PYTHON:-python3}" -m venv "$environment"
  "$environment/bin/pip" install --quiet --disable-pip-version-check \
    -c constraints.txt -c deploy/constraints-gpu.txt -e ".[gpu]"
  touch "$environment/.ready"
fi
exec "$environment/bin/python" -m bench.gpu "$@"
