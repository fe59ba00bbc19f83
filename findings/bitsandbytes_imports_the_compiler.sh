#!/usr/bin/env bash
# bitsandbytes 0.50.2 hands some of its functions to torch.compile while it is imported, and torch 2.15.0 imports the
# whole compiler (torch._inductor.compile_fx) for that. `from diffusers import QwenImagePipeline` (0.42.1) imports
# bitsandbytes where it is installed, so that drawing in full precision waits for a compiler that nobody calls. Of
# PyTorch's two switches, TORCHDYNAMO_DISABLE=1 prevents it and TORCH_COMPILE_DISABLE=1 does not.
# Fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
if command -v uv > /dev/null; then installer=(uv pip install --quiet --python "$folder/venv/bin/python")
else installer=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check); fi
"${installer[@]}" bitsandbytes==0.50.2 torch==2.15.0 diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 numpy
cat > "$folder/program.py" <<'PYTHON'
import sys

exec(sys.argv[1])
print("bitsandbytes" in sys.modules, "torch._inductor.compile_fx" in sys.modules)
PYTHON
check() { # expected answer, statement, environment ...
  expected=$1 statement=$2
  shift 2
  answer=$(env "$@" "$folder/venv/bin/python" -W ignore "$folder/program.py" "$statement" 2> /dev/null)
  echo "$statement ($*): bitsandbytes and compiler imported: $answer"
  [[ "$answer" == "$expected" ]]
}
pipeline="from diffusers import QwenImagePipeline"
check "True True" "$pipeline" HF_HUB_OFFLINE=1
check "True True" "import bitsandbytes" HF_HUB_OFFLINE=1
check "True True" "$pipeline" TORCH_COMPILE_DISABLE=1
check "True False" "$pipeline" TORCHDYNAMO_DISABLE=1
check "False False" "import torch" HF_HUB_OFFLINE=1
echo "as described"
