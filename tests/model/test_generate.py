"""Pictures depend on their own seed and prompt, and guidance is really on."""

import numpy as np
import pytest
import torch

from qwenlab.model.generation import NEGATIVE_PROMPT, generate


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
