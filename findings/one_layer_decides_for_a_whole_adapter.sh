#!/usr/bin/env bash
# diffusers 0.42.1 gives every layer of a LoRA magnitudes of DoRA when one layer has them, and every lora_B a bias when
# one has one. What the file does not hold stays on the meta device: load_lora_weights returns without an error, and the
# first picture fails ("not on the expected device meta"); the log names missing keys. ComfyUI reads files with DoRA or
# trained biases in some layers. Fails when this changes.
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


inputs = dict(
    hidden_states=torch.randn(1, 4, 64), encoder_hidden_states=torch.randn(1, 3, 32), timestep=torch.tensor([0.5]),
    img_shapes=[[(1, 2, 2)]], return_dict=False,
)
plain = {}
for layer in ("to_q", "to_k"):
    stem = f"transformer.transformer_blocks.0.attn.{layer}.lora"
    plain |= {f"{stem}_A.weight": torch.randn(4, 32), f"{stem}_B.weight": torch.randn(32, 4)}
stem = "transformer.transformer_blocks.0.attn.to_q"
for what, extra in (("lora_magnitude_vector", torch.ones(32)), ("lora_B.bias", torch.zeros(32))):
    model = transformer()
    QwenImagePipeline(None, None, None, None, model).load_lora_weights(plain | {f"{stem}.{what}": extra})
    empty = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    print(f"one {what}: loaded without an error; without values:", *empty)
    assert len(empty) == 1 and "to_k" in empty[0]
    try:
        model(**inputs)
    except RuntimeError as error:
        print("  the first call:", error)
    else:
        raise AssertionError("the model computes")
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore "$folder/program.py"
echo "as described"
