"""The micro text encoder: the real `Qwen2_5_VLForConditionalGeneration`, two layers deep.

The pipeline reads the last hidden states and never the logits or the vision tower, so the output matrix is tied to the
embedding and the tower is as small as the class allows.

B prompts, L tokens with the template, S = L - 34 tokens that condition the picture, D = 192 features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from qwenlab.lab.micro.tokenizer import PROMPT_TEMPLATE, TEMPLATE_TOKENS

TEXT_CONFIG = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
}
VISION_CONFIG = {
    "depth": 1,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_heads": 1,
    "fullatt_block_indexes": [0],
}


def build_text_encoder(tokenizer: Qwen2Tokenizer, seed: int, **overrides: object) -> Qwen2_5_VLForConditionalGeneration:
    """An untrained micro text encoder in float32 for `tokenizer`'s vocabulary; the same `seed` gives the same bits."""
    text = TEXT_CONFIG | {"vocab_size": len(tokenizer)} | overrides

    def token(name: str) -> int:
        return tokenizer.convert_tokens_to_ids(name)

    config = Qwen2_5_VLConfig(
        text_config=text
        | {"bos_token_id": None, "eos_token_id": token("<|im_end|>"), "pad_token_id": tokenizer.pad_token_id},
        vision_config=VISION_CONFIG | {"out_hidden_size": text["hidden_size"]},
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2_5_VLForConditionalGeneration(config).eval()


def tokenize_prompts(tokenizer: Qwen2Tokenizer, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of each prompt inside the pipeline's template, not padded."""
    return tokenizer([PROMPT_TEMPLATE.format(prompt) for prompt in prompts]).input_ids


def pad_prompts(rows: Sequence[Sequence[int]], pad_token: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Right-padded ids (B, L) int64 and their mask (B, L) int64; L is the longest prompt of this batch."""
    length = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad_token] * (length - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return ids.to(device), mask.to(device)


def encode_tokens(
    text_encoder: Qwen2_5_VLForConditionalGeneration, ids: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor | None]:
    """What `QwenImagePipeline.encode_prompt` computes, with gradients: ids, mask (B, L) -> (B, S, D), mask (B, S).

    The template's 34 tokens are dropped, padding is zeroed, and the mask is None when no prompt is padded. The inner
    model is called so that no logits are computed.
    """
    hidden = text_encoder.model(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, L, D)
    hidden, mask = hidden[:, TEMPLATE_TOKENS:], mask[:, TEMPLATE_TOKENS:]
    if bool(mask.all()):
        return hidden, None
    return hidden * mask.unsqueeze(-1).to(hidden.dtype), mask
