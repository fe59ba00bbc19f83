"""A random Qwen-Image-Edit-Plus pipeline of the stock classes, small enough to be built in a second."""

import json

from diffusers import QwenImageEditPlusPipeline
from transformers import Qwen2Tokenizer, Qwen2VLImageProcessor, Qwen2VLProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from tests.tiny import tiny_pipeline

VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def tiny_edit_pipeline(seed: int = 0, zero_cond_t: bool = False) -> QwenImageEditPlusPipeline:
    """The parts of `tiny_pipeline(seed)` with a processor; the text encoder reads pictures of 28 x 28 pixels a token.

    zero_cond_t: modulate references at timestep 0, as Qwen-Image-Edit-2511 does.
    """
    parts = tiny_pipeline(seed)
    tokenizer = _with_vision_tokens(parts.tokenizer)
    config = parts.text_encoder.config
    for name, token in zip(("vision_start", "vision_end", "image", "video"), VISION, strict=True):
        setattr(config, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
    parts.text_encoder.model.config = config
    transformer = parts.transformer
    if zero_cond_t:
        own = {name: value for name, value in transformer.config.items() if name[0] != "_"}
        changed = type(transformer)(**own | {"zero_cond_t": True})
        changed.load_state_dict(transformer.state_dict())
        transformer = changed.eval()
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
    )
    pipeline = QwenImageEditPlusPipeline(
        parts.scheduler, parts.vae, parts.text_encoder, tokenizer, processor, transformer
    )
    pipeline.default_sample_size = parts.default_sample_size
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _with_vision_tokens(tokenizer: Qwen2Tokenizer) -> Qwen2Tokenizer:
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    special = ["<|im_start|>", "<|im_end|>", *VISION]
    return Qwen2Tokenizer(vocab=model["vocab"], merges=merges, extra_special_tokens=special)
