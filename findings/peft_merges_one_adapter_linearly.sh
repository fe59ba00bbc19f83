#!/usr/bin/env bash
# peft 0.21.2: `add_weighted_adapter` with a list of ONE adapter does "linear" whatever combination_type says. svd_rank
# and density are ignored without a word: "compress this LoRA to rank 1" gives back rank 4. With the same adapter twice
# at half the weight, which is the same update, they count. Fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
if command -v uv > /dev/null; then installer=(uv pip install --quiet --python "$folder/venv/bin/python")
else installer=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check); fi
"${installer[@]}" peft==0.21.2 torch==2.15.0 transformers==5.23.0 numpy
cat > "$folder/program.py" <<'PYTHON'
import peft
import torch

torch.manual_seed(0)
config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["layer"], init_lora_weights=False)
model = torch.nn.Sequential()
model.add_module("layer", torch.nn.Linear(32, 32, bias=False))
model = peft.get_peft_model(model, config, "style")
layer = model.base_model.model.layer
style = layer.get_delta_weight("style")
model.add_adapter("again", config)
layer.lora_A["again"].weight.data.copy_(layer.lora_A["style"].weight)
layer.lora_B["again"].weight.data.copy_(layer.lora_B["style"].weight)

for number, how in enumerate(("svd", "ties_svd", "dare_linear_svd", "magnitude_prune_svd")):
    options = {"combination_type": how, "svd_rank": 1, "density": 0.1}
    model.add_weighted_adapter(["style"], [1.0], f"one{number}", **options)
    model.add_weighted_adapter(["style", "again"], [0.5, 0.5], f"two{number}", **options)
    one, two = (layer.get_delta_weight(f"{name}{number}") for name in ("one", "two"))
    ranks = [int(torch.linalg.matrix_rank(update)) for update in (one, two)]
    unchanged = torch.allclose(one, style, atol=1e-5)
    print(f"{how}, svd_rank 1: rank {ranks[0]} of one adapter (unchanged: {unchanged}), rank {ranks[1]} of two halves")
    assert ranks == [4, 1] and unchanged
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/program.py"
echo "as described"
