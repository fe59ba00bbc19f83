"""What the other parts of the pipeline need: the text encoder and the VAE, before and between training steps.

The numbers of parameters are those of Qwen2.5-VL-7B and of Qwen-Image's VAE; a test builds both without their values.
"""

from __future__ import annotations

from qwenlab.memory.formula import GIB, NF4_BLOCK, NF4_NESTED_BLOCK

TEXT_ENCODER_PARAMETERS = 8_292_166_656
TEXT_ENCODER_BLOCKS = 6_525_288_448  # of them in the matrices of its blocks, which `qwenlab.model.quantize` rounds
VAE_PARAMETERS = 126_892_531
# Bytes of a pixel in the widest stage of the VAE: 96 channels in several maps at once. Folded, in bfloat16.
VAE_ENCODE_BYTES, VAE_DECODE_BYTES = 96 * (4 + 4 + 2 + 2), 96 * (4 + 4 + 2 + 2 + 2)


def text_encoder_bytes(weights: str, tokens: int = 512) -> int:
    """Bytes of the text encoder's weights in a precision of `qwenlab.load_pipeline`, and of encoding one caption."""
    rest = TEXT_ENCODER_PARAMETERS - TEXT_ENCODER_BLOCKS
    bits = {"fp32": 32, "bf16": 16, "int8": 8, "nf4": 4 + 8 / NF4_BLOCK + 32 / (NF4_BLOCK * NF4_NESTED_BLOCK)}[weights]
    element = 4 if weights == "fp32" else 2
    answers = tokens * (29 * 3584 + 152_064) * element  # the states of all layers, and scores of all words
    return int(TEXT_ENCODER_BLOCKS * bits / 8) + rest * element + answers


def vae_bytes(height: int, width: int) -> int:
    """Bytes of the folded VAE in bfloat16 and of decoding a picture of so many pixels, the larger of its two ways."""
    return 2 * VAE_PARAMETERS + VAE_DECODE_BYTES * height * width


def encoding_gib(weights: str, height: int, width: int) -> float:
    """GiB while pictures and captions are encoded and the transformer waits in CPU memory."""
    encoder, vae = text_encoder_bytes(weights), vae_bytes(height, width)
    return (encoder + vae) / GIB
