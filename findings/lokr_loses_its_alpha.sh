#!/usr/bin/env bash
# LoKr in diffusers 0.42.1: QwenImagePipeline.load_lora_weights refuses it, transformer.load_lora_adapter reads it. But
# that loader takes the Kronecker factors and passes over "<layer>.alpha": where alpha counts (a factor stored as a
# product), the adapter acts with rank / alpha of its strength; where both factors are stored as products, nothing is
# loaded at all, the update is zero. No error in either case; the log names missing keys in the second, alpha in none.
# Whole factors, where LyCORIS and ComfyUI take no alpha either, are exact. Fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
if command -v uv > /dev/null; then installer=(uv pip install --quiet --python "$folder/venv/bin/python")
else installer=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check); fi
"${installer[@]}" torch==2.15.0 torchvision==0.29.2 diffusers==0.42.1 transformers==5.23.0 peft==0.21.2 \
  accelerate==1.15.0 numpy pillow
cat > "$folder/program.py" <<'PYTHON'
import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel


def transformer():
    torch.manual_seed(0)
    return QwenImageTransformer2DModel(
        num_layers=2, num_attention_heads=2, attention_head_dim=16, joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
        in_channels=64, out_channels=16,
    )


layer, rank, alpha = "transformer_blocks.0.attn.to_q", 2, 8.0


def product(rows, columns):
    return {"_a": torch.randn(rows, rank), "_b": torch.randn(rank, columns)}


kinds = {
    "both whole": {"w1": torch.randn(4, 4), "w2": torch.randn(8, 8)},
    "w2 a product": {"w1": torch.randn(4, 4), **{f"w2{end}": value for end, value in product(8, 8).items()}},
    "both products": {
        f"{w}{end}": value for w, size in (("w1", 4), ("w2", 8)) for end, value in product(size, size).items()
    },
}
expected = {"both whole": 1.0, "w2 a product": rank / alpha, "both products": 0.0}
for kind, factors in kinds.items():
    whole = {w: factors[w] if w in factors else factors[f"{w}_a"] @ factors[f"{w}_b"] for w in ("w1", "w2")}
    meant = torch.kron(whole["w1"], whole["w2"]) * (1.0 if kind == "both whole" else alpha / rank)
    state = {f"transformer.{layer}.lokr_{name}": value for name, value in factors.items()}
    state[f"transformer.{layer}.alpha"] = torch.tensor(alpha)
    model = transformer()
    try:
        QwenImagePipeline(None, None, None, None, model).load_lora_weights(dict(state))
    except ValueError as error:
        refused = str(error)[:50]
    else:
        raise AssertionError("the pipeline reads LoKr")
    model.load_lora_adapter(dict(state), prefix="transformer")
    module = model.get_submodule(layer)
    update = module.get_delta_weight(module.active_adapters[0])
    strength = ((update * meant).sum() / meant.square().sum()).item()
    print(f"{kind}: pipeline refuses ({refused} ...), load_lora_adapter acts with {strength:.3f} times the strength")
    assert abs(strength - expected[kind]) < 1e-5
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore "$folder/program.py"
echo "as described"
