#!/usr/bin/env bash
# diffusers 0.42.1: QwenImageControlNetModel.from_transformer copies the first blocks of a transformer by name and passes
# over names that do not match. A transformer that carries a LoRA (peft 0.21.2) calls the weights below it
# `to_q.base_layer.weight`: these layers of the new net stay at their random start, and nothing says so. A net that is
# made beside a trained character then learns from blocks whose attention is noise.
# Fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
if command -v uv > /dev/null; then installer=(uv pip install --quiet --python "$folder/venv/bin/python")
else installer=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check); fi
"${installer[@]}" diffusers==0.42.1 peft==0.21.2 torch==2.15.0 transformers==5.23.0 accelerate==1.15.0 numpy
cat > "$folder/program.py" <<'PYTHON'
import warnings; warnings.filterwarnings("ignore")
import torch
from diffusers import QwenImageControlNetModel, QwenImageTransformer2DModel
from peft import LoraConfig

torch.manual_seed(0)
sizes = {"attention_head_dim": 16, "num_attention_heads": 2}
base = QwenImageTransformer2DModel(
    in_channels=16, out_channels=4, num_layers=2, joint_attention_dim=32, axes_dims_rope=(4, 6, 6), **sizes
)


def copied(transformer):
    net = QwenImageControlNetModel.from_transformer(transformer, num_layers=2, **sizes)
    names = [name for name in net.state_dict() if name.startswith("transformer_blocks.")]
    plain = {key.replace(".base_layer", ""): value for key, value in transformer.state_dict().items()}
    return {name for name in names if torch.equal(net.state_dict()[name], plain[name])}, set(names)


same, every = copied(base)
print("without an adapter:", len(same), "of", len(every))
base.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v"]))
same, every = copied(base)
print("with a LoRA on to_q, to_k, to_v:", len(same), "of", len(every))
print("not copied:", sorted({name.split(".", 2)[2] for name in every - same}))
PYTHON
answer=$(HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/program.py" 2> "$folder/errors")
echo "$answer"
grep -q "without an adapter: 64 of 64" <<< "$answer"
grep -q "with a LoRA on to_q, to_k, to_v: 52 of 64" <<< "$answer"
if grep -qi "base_layer\|not copied\|missing" "$folder/errors"; then echo "it warns now" && exit 1; fi
echo "as described"
