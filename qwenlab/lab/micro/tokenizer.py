"""The micro tokenizer: the stock `Qwen2Tokenizer` with byte-level BPE merges learnt from the world's vocabulary.

The stock `QwenImagePipeline` wraps every prompt in a chat template and drops the first 34 tokens of the result, the
number that Qwen's own vocabulary gives to the fixed part. A tokenizer for this pipeline must therefore give the same
34, so each word of the template is one token here. The words of the captions are one token each; all other text
falls back to bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from qwenlab.lab import world
from qwenlab.lab.world import attributes

# The stock pipeline's template and the number of its tokens that come before the prompt (assemble.py checks both).
PROMPT_TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
TEMPLATE_TOKENS = 34

# The vision tokens are part of Qwen2.5-VL's configuration, though no picture ever enters the micro text encoder.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
VOCABULARY_LIMIT = 1200


def training_words() -> list[str]:
    """The words the merges are learnt from, each as it stands in a caption (with its space or colon) or template.

    Attribute words are listed one by one, not inside captions: a merge across two of them would give a combination
    of attributes a token of its own, and a held-out combination one that was never trained.
    """
    words = [f" {word}" for values in world.ATTRIBUTES.values() for word in values if word]
    words += [word for values in world.ATTRIBUTES.values() for word in values if word]
    words += [f":{word}" for word in (*attributes.BACKGROUNDS, *attributes.STYLES, *attributes.FRAMINGS)]
    sample = (
        attributes.SAMPLE_HAIR_STYLE,
        attributes.SAMPLE_HAIR_COLOR,
        attributes.SAMPLE_CLOTHES,
        attributes.SAMPLE_STYLE,
    )
    words += [form for word in sample for form in (word, f" {word}", f":{word}")]
    words += [" 手持", " 背景", " 风格", " 细节", "手持", "背景", "风格", "细节"]
    for part in PROMPT_TEMPLATE.split("{}"):
        for token in SPECIAL_TOKENS:
            part = part.replace(token, "\n")
        words += [form for word in part.replace(",", "").replace(":", "").split() for form in (word, f" {word}")]
    return words


def _byte_bpe(words: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE in which every one of `words` ends up whole."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_LIMIT,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words, trainer)
    vocabulary = tokenizer.get_vocab()
    ordered = sorted(vocabulary, key=vocabulary.__getitem__)
    assert len(ordered) < VOCABULARY_LIMIT, "the limit cut the merges short: some words are more than one token"
    # The stock class wants merges in order; the model's JSON is the only public way to read them.
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    return {token: index for index, token in enumerate(ordered)}, merges


def build_tokenizer() -> Qwen2Tokenizer:
    """A stock `Qwen2Tokenizer` for the world; the same every time. Saving and loading keep it.

    Raises `ValueError` when the template's fixed part is not 34 tokens long.
    """
    vocabulary, merges = _byte_bpe(training_words())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *vocabulary])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, extra_special_tokens=list(SPECIAL_TOKENS[1:]))
    check_template(tokenizer)
    return tokenizer


def check_template(tokenizer: Qwen2Tokenizer) -> None:
    """Raise `ValueError` unless the template's part before the prompt is exactly the 34 tokens the pipeline drops."""
    prefix = PROMPT_TEMPLATE.split("{}")[0]
    for prompt in ("", " ", "1女孩"):
        ids = tokenizer(prefix + prompt).input_ids
        if len(tokenizer(prefix).input_ids) != TEMPLATE_TOKENS or ids[:TEMPLATE_TOKENS] != tokenizer(prefix).input_ids:
            raise ValueError(f"the template is {tokenizer.tokenize(prefix)}, not the {TEMPLATE_TOKENS} tokens dropped")
