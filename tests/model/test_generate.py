"""Pictures depend on their own seed and prompt, and guidance is really on."""

import numpy as np
import pytest
import torch

from qwenlab.captions import lint
from qwenlab.errors import QwenlabError
from qwenlab.model.encoding import encode_text
from qwenlab.model.generation import NEGATIVE_PROMPT, generate
from qwenlab.model.limits import MAX_TOKENS, check_prompt, count_prompt_tokens, parse_size


def difference(a, b) -> int:
    return int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max())


def test_one_picture_a_pair_at_the_native_size(pipeline):
    images = generate(pipeline, ["1女孩", "1男孩", "3家庭"], [1, 2, 3], steps=2, batch_size=2)
    assert [image.size for image in images] == [(32, 32)] * 3 and images[0].mode == "RGB"
    assert generate(pipeline, "1女孩", 1, steps=2, size=(48, 16))[0].size == (48, 16)


def test_a_picture_does_not_depend_on_its_neighbours(pipeline):
    alone = generate(pipeline, "1女孩", 7, steps=3)[0]
    among = generate(pipeline, ["1男孩, 一段长得多的描述", "1女孩", "x"], [3, 7, 9], steps=3)[1]
    assert difference(alone, among) <= 1
    assert difference(alone, generate(pipeline, "1女孩", 8, steps=3)[0]) > 1


def test_single_prompt_or_seed_is_shared(pipeline):
    by_seed = generate(pipeline, "1女孩", [1, 2], steps=2)
    by_list = generate(pipeline, ["1女孩", "1女孩"], [1, 2], steps=2)
    assert [difference(a, b) for a, b in zip(by_seed, by_list, strict=True)] == [0, 0]
    with pytest.raises(ValueError, match="3 prompts but 2 seeds"):
        generate(pipeline, ["a", "b", "c"], [1, 2])


def test_a_single_step_is_refused(pipeline):
    with pytest.raises(ValueError, match="steps must be 2 or more"):
        generate(pipeline, "1女孩", 1, steps=1)


def test_it_is_the_stock_call_with_true_guidance(pipeline):
    stock = pipeline(
        "1女孩",
        negative_prompt=NEGATIVE_PROMPT,
        true_cfg_scale=3.0,
        num_inference_steps=3,
        width=32,
        height=32,
        generator=torch.Generator().manual_seed(5),
    ).images[0]
    assert difference(generate(pipeline, "1女孩", 5, steps=3, guidance=3.0)[0], stock) == 0
    assert difference(generate(pipeline, "1女孩", 5, steps=3, guidance=1.0)[0], stock) > 0


def test_the_progress_bar_setting_is_put_back(pipeline, capsys):
    pipeline.set_progress_bar_config(desc="mine")
    generate(pipeline, "1女孩", 1, steps=2)
    assert pipeline._progress_bar_config == {"desc": "mine"} and capsys.readouterr().err == ""
    generate(pipeline, "1女孩", 1, steps=2, progress=True)
    assert "2/2" in capsys.readouterr().err


def long_text(pipeline, tokens: int) -> str:
    """A prompt that needs exactly so many tokens, the end of the template included."""
    text = "1女孩"
    text += "z" * (tokens - count_prompt_tokens(pipeline, text))
    assert count_prompt_tokens(pipeline, text) == tokens
    return text


def test_one_limit_for_drawing_training_and_linter(pipeline):
    fits = long_text(pipeline, MAX_TOKENS)
    assert len(encode_text(pipeline, fits)) == MAX_TOKENS == pipeline.tokenizer_max_length
    assert "too-long" not in {finding.rule for finding in lint(fits, pipeline.tokenizer)}
    generate(pipeline, fits, 1, steps=2, size=16)
    longer = fits + "z"
    assert "too-long" in {finding.rule for finding in lint(longer, pipeline.tokenizer)}
    for use in (
        lambda: generate(pipeline, longer, 1, steps=2, size=16),
        lambda: generate(pipeline, "1女孩", 1, steps=2, size=16, negative_prompt=longer),
        lambda: encode_text(pipeline, longer),
    ):
        with pytest.raises(QwenlabError, match="tokens, and Qwen-Image reads 1019; shorten") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_what_stands_behind_token_512_is_drawn(pipeline):
    start = long_text(pipeline, 700)
    one, other = (generate(pipeline, start + end, 1, steps=2)[0] for end in (" red", " blue"))
    assert difference(one, other) > 0
    with pytest.warns(UserWarning, match="its end is cut off at max_tokens 512"):
        one, other = (generate(pipeline, start + end, 1, steps=2, max_tokens=512)[0] for end in (" red", " blue"))
    assert difference(one, other) == 0, "asked for, and said"
    stock = pipeline(
        start, negative_prompt=NEGATIVE_PROMPT, true_cfg_scale=4.0, num_inference_steps=2, height=32, width=32,
        generator=torch.Generator().manual_seed(1),
    ).images[0]  # fmt: skip
    assert difference(one, stock) == 0, "the stock call cuts there, without a word"


def test_the_length_of_a_text_in_bytes_is_enough_for_short_ones(pipeline, monkeypatch):
    monkeypatch.setattr(type(pipeline.tokenizer), "__call__", lambda *args, **kwargs: 1 / 0)
    check_prompt(pipeline, "花" * 339)
    with pytest.raises(ZeroDivisionError):
        check_prompt(pipeline, "花" * 340)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"size": 100}, "size 100: is no multiple of 16 pixels; take 96 or 112"),
        ({"size": (32, 40)}, "size 40: is no multiple"),
        ({"size": 0}, "size 0: must be a number from 16 to 4096"),
        ({"size": -16}, "size -16"),
        ({"size": 8192}, "size 8192"),
        ({"guidance": float("nan")}, "guidance nan: must be a number from 0 to 100"),
        ({"guidance": float("inf")}, "guidance inf"),
        ({"guidance": -1.0}, "guidance -1.0"),
        ({"steps": 1001}, "steps 1001: must be a number from 2 to 1000"),
        ({"seeds": -1}, "seed -1"),
        ({"seeds": [0, 2**64]}, "seed 18446744073709551616"),
        ({"max_tokens": 0}, "max_tokens 0: must be a number from 6 to 1024"),
        ({"max_tokens": 1025}, "max_tokens 1025"),
    ],
)
def test_numbers_that_cannot_be_drawn_with_are_refused_in_one_line(pipeline, options, match):
    with pytest.raises(QwenlabError, match=match) as caught:
        generate(pipeline, "1女孩", **{"seeds": 1, "steps": 2} | options)
    assert "\n" not in str(caught.value)


def test_the_largest_seed_draws(pipeline):
    assert difference(*generate(pipeline, "1女孩", [2**64 - 1, 0], steps=2)) > 1


@pytest.mark.parametrize(
    ("text", "size"),
    [("64", (64, 64)), ("1328x1024", (1328, 1024)), (" 32 X 48 ", (32, 48)), ("16×4096", (16, 4096))],
)
def test_sizes_as_people_write_them(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "64x", "x64", "64x64x64", "nan", "1e3", "-64", "64.0", "100x64", "64x4112"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(QwenlabError, match="--size") as caught:
        parse_size(text)
    assert "\n" not in str(caught.value)
