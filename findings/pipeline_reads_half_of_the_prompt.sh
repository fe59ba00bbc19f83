#!/usr/bin/env bash
# QwenImagePipeline of diffusers 0.42.1 has two lengths: `encode_prompt`, which trainers call, keeps 1024 tokens of a
# prompt, a call of the pipeline 512. Nothing is logged. Two prompts that differ behind token 512 give the same
# picture, bit by bit; a LoRA trained on long captions is asked with half of them. max_sequence_length=1024 reads all; behind 1024
# the end of the chat template is cut off as well. Random weights of the stock classes. Fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
if command -v uv > /dev/null; then installer=(uv pip install --quiet --python "$folder/venv/bin/python")
else installer=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check); fi
"${installer[@]}" torch==2.15.0 torchvision==0.29.2 diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 \
  numpy pillow
cat > "$folder/program.py" <<'PYTHON'
import json
import logging

import diffusers
import torch
from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImagePipeline
from diffusers import QwenImageTransformer2DModel
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
template = (
    "system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships "
    "of the objects and background:\nuser\n\nassistant\n"
)
bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
bpe.train_from_iterator(
    [template] * 4,
    trainers.BpeTrainer(
        vocab_size=560, special_tokens=[AddedToken(token, special=True) for token in SPECIAL], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ),
)
words = json.loads(bpe.to_str())["model"]
tokenizer = Qwen2Tokenizer(
    vocab=words["vocab"], merges=[tuple(pair) for pair in words["merges"]], extra_special_tokens=SPECIAL[1:]
)
torch.manual_seed(0)
text = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
    vocab_size=600, max_position_embeddings=2048, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
)
vision = dict(
    depth=1, hidden_size=32, intermediate_size=32, num_heads=2, out_hidden_size=32, fullatt_block_indexes=[0]
)
encoder = Qwen2_5_VLForConditionalGeneration(
    Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=1, video_token_id=1, vision_start_token_id=1,
        vision_end_token_id=1,
    )
)
transformer = QwenImageTransformer2DModel(
    num_layers=2, num_attention_heads=2, attention_head_dim=16, joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
    in_channels=64, out_channels=16,
)
vae = AutoencoderKLQwenImage(base_dim=8, num_res_blocks=1, dim_mult=[1, 1, 2, 2])
scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
pipeline = QwenImagePipeline(scheduler, vae.eval(), encoder.eval(), tokenizer, transformer.eval())
pipeline.set_progress_bar_config(disable=True)
said = []


class Note(logging.Handler):
    def emit(self, record):
        said.append(record)


diffusers.utils.logging.get_logger("diffusers").addHandler(Note())


def draw(prompt, **options):
    generator = torch.Generator().manual_seed(0)
    picture = pipeline(
        prompt, num_inference_steps=2, true_cfg_scale=1.0, height=32, width=32, generator=generator,
        output_type="latent", **options,
    )
    return picture.images


one, other = "z" * 600 + " red", "z" * 600 + " blue"
lengths = [pipeline.encode_prompt(prompt)[0].shape[1] for prompt in (one, other)]
print("tokens that encode_prompt keeps:", lengths)
assert min(lengths) > 600
same = torch.equal(draw(one), draw(other))
whole = torch.equal(draw(one, max_sequence_length=1024), draw(other, max_sequence_length=1024))
print("the same latents, bit by bit: stock call", same, "- with max_sequence_length=1024", whole)
assert same and not whole
longer = pipeline.encode_prompt("z" * 1200)[0].shape[1], pipeline.encode_prompt("z" * 1300)[0].shape[1]
print("tokens that encode_prompt keeps of 1200 and 1300:", longer)
assert longer == (1024, 1024)
print("messages about any of this:", [record.getMessage() for record in said])
assert not said
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore "$folder/program.py"
echo "as described"
