#!/usr/bin/env bash
# transformers 5.23.0: text_encoder.load_adapter(adapter_state_dict=..., peft_config=...) with a LoRA in the names that
# OneTrainer (lora_down, lora_up), kohya (lora_te_layers_0_...) or ComfyUI (text_encoders.qwen25_7b...) write for a
# Qwen2.5-VL encoder returns without an error: the adapter is there and active, B is zero, the encoder computes what it
# computed before. A report in the log lists all factors as missing and, of kohya's and ComfyUI's names, all as
# unexpected. peft's own names load. Fails when this changes.
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
from peft import LoraConfig
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

text = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
    vocab_size=600, max_position_embeddings=2048, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
)
vision = dict(depth=1, hidden_size=32, intermediate_size=32, num_heads=2, out_hidden_size=32, fullatt_block_indexes=[0])
config = Qwen2_5_VLConfig(
    text_config=text, vision_config=vision, image_token_id=1, video_token_id=1, vision_start_token_id=1,
    vision_end_token_id=1,
)
own = "model.language_model.layers.0.self_attn.q_proj"
names = {
    "peft": (f"{own}.lora_A.weight", f"{own}.lora_B.weight"),
    "OneTrainer": (f"{own}.lora_down.weight", f"{own}.lora_up.weight"),
    "kohya": tuple(f"lora_te_layers_0_self_attn_q_proj.lora_{end}.weight" for end in ("down", "up")),
    "ComfyUI": tuple(
        f"text_encoders.qwen25_7b.transformer.model.layers.0.self_attn.q_proj.lora_{end}.weight" for end in "AB"
    ),
}
for trainer, (down, up) in names.items():
    torch.manual_seed(0)
    encoder = Qwen2_5_VLForConditionalGeneration(config).eval()
    a, b = torch.randn(4, 32), torch.randn(32, 4)
    ids = torch.arange(2, 8)[None]
    with torch.no_grad():
        before = encoder(input_ids=ids).logits
        encoder.load_adapter(
            adapter_state_dict={down: a, up: b}, peft_config=LoraConfig(r=4, lora_alpha=4, target_modules=[own])
        )
        after = encoder(input_ids=ids).logits
    loaded = encoder.get_submodule(own).lora_B["default"].weight
    print(f"{trainer}: no error; B loaded: {torch.equal(loaded, b)}, B zero: {not loaded.any()}, "
          f"output unchanged: {torch.equal(before, after)}")
    assert torch.equal(loaded, b) == (trainer == "peft") and loaded.any() == (trainer == "peft")
    assert torch.equal(before, after) == (trainer != "peft")
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore "$folder/program.py"
echo "as described"
