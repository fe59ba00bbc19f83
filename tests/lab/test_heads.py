"""The counter of heads: drawings with 0, 1 and 2, wide pictures, and that a net of noise does not count."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from qwenlab.errors import QwenlabError
from qwenlab.lab import world
from qwenlab.lab.editing.heads import STRIDE, HeadNet, count_heads, load_head_net
from qwenlab.lab.editing.train_heads import NEAR, SIZE, draw, examples, heat_loss, held_out, train


@pytest.mark.parametrize("count", [0, 1, 2])
def test_drawings_have_the_heads_that_were_asked_for(count):
    rng = np.random.default_rng(count)
    for _ in range(8):
        image, heads = draw(rng, count)
        assert image.shape == (SIZE, SIZE, 3) and len(heads) <= count
        assert all(0 <= value < SIZE for head in heads for value in head)
        if len(heads) == 2:
            assert abs(heads[0][0] - heads[1][0]) > 0.8 * NEAR * SIZE


def test_heat_is_one_in_the_cell_of_each_head():
    pictures, heat = examples(np.random.default_rng(0), 9)
    assert pictures.shape == (9, 3, SIZE, SIZE) and heat.shape == (9, SIZE // STRIDE, SIZE // STRIDE)
    counts = (heat == 1).sum((1, 2)).tolist()
    assert sorted(counts)[:3] == [0, 0, 0] and max(counts) == 2


def test_the_loss_is_low_for_the_right_map_alone():
    _, heat = examples(np.random.default_rng(1), 6)
    exact = torch.where(heat == 1, 8.0, -8.0)
    assert heat_loss(exact, heat) < 0.05 < heat_loss(exact.roll(3, 2), heat)


def test_a_few_steps_learn_something():
    torch.manual_seed(0)
    _, heat = examples(np.random.default_rng(2), 24)
    pictures, _ = examples(np.random.default_rng(2), 24)
    before = heat_loss(HeadNet()(pictures), heat)
    after = heat_loss(train(30, 8, 24, None, say=False)(pictures), heat)
    assert after < 0.8 * before


@pytest.mark.parametrize("name", ["none.safetensors", "other.safetensors"])
def test_a_file_that_is_no_counter_is_one_line(tmp_path, name):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(QwenlabError, match="train_heads"):
        load_head_net(tmp_path / name)


def test_the_shipped_counter_is_right():
    images, counts = held_out(60)
    found = count_heads(load_head_net(), [Image.fromarray(image) for image in images])
    assert np.mean(np.equal(found, counts)) >= 0.95


def test_a_picture_beside_itself_has_two_heads():
    image = world.render(world.sample_scene(np.random.default_rng(5))).image
    wide = Image.fromarray(np.concatenate([image, image], axis=1))
    assert count_heads(load_head_net(), [Image.fromarray(image), wide]) == [1, 2]
