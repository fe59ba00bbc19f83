"""A random Qwen-Image pipeline of the stock classes, small enough to be built in a second."""

import json

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SIZE = 32  # pixels: 4 x 4 latent cells, 4 tokens


def tiny_pipeline(seed: int = 0, heads: int = 2) -> QwenImagePipeline:
    """Random weights drawn from `seed`; 2 blocks of `heads` x 16. Pictures of SIZE x SIZE pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = QwenImageTransformer2DModel(
            num_layers=2,
            num_attention_heads=heads,
            attention_head_dim=16,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
            in_channels=64,
            out_channels=16,
        )
        vae = AutoencoderKLQwenImage(base_dim=8, num_res_blocks=1, dim_mult=[1, 1, 2, 2])
        encoder = Qwen2_5_VLForConditionalGeneration(_text_encoder_config())
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
    )
    pipeline = QwenImagePipeline(scheduler, vae.eval(), encoder.eval(), _tokenizer(), transformer.eval())
    pipeline.default_sample_size = SIZE // pipeline.vae_scale_factor
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _text_encoder_config() -> Qwen2_5_VLConfig:
    text = dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=600,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    )
    vision = dict(
        depth=1,
        hidden_size=32,
        intermediate_size=32,
        num_heads=2,
        out_hidden_size=32,
        fullatt_block_indexes=[0],
    )
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=1,
        video_token_id=1,
        vision_start_token_id=1,
        vision_end_token_id=1,
    )


def _tokenizer() -> Qwen2Tokenizer:
    """A byte-level BPE that knows the words of the pipeline's template, in which that template is short."""
    template = (
        "system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
        "relationships of the objects and background:\nuser\n\nassistant\n"
    )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=560,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator([template] * 4, trainer)
    model = json.loads(bpe.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        extra_special_tokens=list(SPECIAL[1:]),
    )
