"""Attention maps: words and their tokens, where things are in a rendering, and a score that knows a planted answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from qwenlab.lab import localisation as localisation_module
from qwenlab.lab import world
from qwenlab.lab.localisation import localisation, patches_showing, region, things
from qwenlab.lab.micro.assemble import assemble
from qwenlab.lab.micro.text_encoder import build_text_encoder
from qwenlab.lab.micro.tokenizer import build_tokenizer
from qwenlab.lab.micro.transformer import build_transformer
from qwenlab.lab.micro.vae import build_vae
from qwenlab.model import pipeline as door
from qwenlab.model.attention_maps import AttentionMaps, attention_maps, overlay, token_spans

CAPTION = "1女孩, 粉色双马尾, 白色连衣裙, 挥手, 手持气球, 背景:花园, 风格:日系插画, 细节:全身正面, 连指手套, 穿鞋"
SCENE = world.Scene(
    "女孩", "双马尾", "粉色", "白色连衣裙", "挥手", "气球", "花园", "日系插画", "正面", "全身", "连指手套", "穿鞋", 3
)  # fmt: skip


@pytest.fixture(scope="module")
def untrained():
    """The micro model's tokenizer and template with one block and random weights."""
    tokenizer = build_tokenizer()
    text_encoder = build_text_encoder(tokenizer, 1, num_hidden_layers=1, intermediate_size=32)
    pipeline = assemble(build_vae(0, base_dim=4), build_transformer(192, 2, num_layers=2), text_encoder, tokenizer)
    pipeline.default_sample_size = 4  # 32 pixels, 2 x 2 patches
    return pipeline


def planted(words_read=None, patches_read=None, prompt="红色, 短发"):
    """Maps of a prompt with a token a character and 2 x 2 patches, nothing read but what is given."""
    spans = tuple((i, i + 1) for i in range(len(prompt))) + ((0, 0),)
    shape = (1, 1, len(spans), 4)
    words_read = torch.zeros(shape) if words_read is None else words_read
    patches_read = torch.zeros(shape).mT if patches_read is None else patches_read
    return AttentionMaps(prompt, spans, (2, 2), words_read, patches_read)


# Words


def test_every_word_of_a_caption_has_its_own_tokens(untrained):
    spans = token_spans(untrained, CAPTION)
    text, _ = untrained.encode_prompt(CAPTION)
    assert len(spans) == text.shape[1]
    maps = replace(planted(), prompt=CAPTION, spans=spans)
    for word in ("女孩", "粉色双马尾", "气球", "花园", "穿鞋"):
        covered = "".join(CAPTION[slice(*spans[token])] for token in maps.tokens_of(word))
        assert word in covered and len(covered) <= len(word) + 1  # at most the space or colon before it
    assert [CAPTION[slice(*span)] for span in spans][-2:] == ["", ""]  # the end of the template


def test_a_word_that_falls_apart_into_bytes_keeps_all_its_tokens(untrained):
    spans = token_spans(untrained, "1女孩, 龙")
    assert len(replace(planted(), prompt="1女孩, 龙", spans=spans).tokens_of("龙")) >= 3


def test_a_repeated_word_counts_everywhere_and_a_foreign_one_is_refused():
    assert planted(prompt="红, 红色").tokens_of("红") == [0, 3]
    with pytest.raises(ValueError, match="not in the prompt"):
        planted().tokens_of("蓝色")


# Maps


def test_what_a_word_reads_and_who_reads_it():
    words_read = torch.zeros(1, 1, 7, 4)
    words_read[..., [0, 1], 3] = torch.tensor([0.6, 0.2])
    patches_read = torch.zeros(1, 1, 4, 7)
    patches_read[..., 0] = 0.1  # a token that every patch reads alike
    patches_read[..., 2, [4, 5]] = torch.tensor([0.5, 0.25])
    maps = planted(words_read, patches_read)
    torch.testing.assert_close(maps.read_by("红色"), torch.tensor([[0, 0], [0, 0.4]]))
    torch.testing.assert_close(maps.readers_of("短发"), torch.tensor([[0, 0], [0.75, 0]]))
    assert maps.phrases_read_by(1, 0) == {"短发": pytest.approx(4.0), "红色": pytest.approx(1.0)}
    assert list(maps.phrases_read_by(1, 0)) == ["短发", "红色"]


def test_maps_of_a_pipeline_keep_both_directions(untrained):
    latents = torch.randn(16, 4, 6, generator=torch.Generator().manual_seed(0))
    maps = attention_maps(untrained, CAPTION, latents)
    length = len(maps.spans)
    assert maps.grid == (2, 3)
    assert maps.words_read.shape == (2, 3, length, 6) and maps.patches_read.shape == (2, 3, 6, length)
    for part in (maps.words_read, maps.patches_read):
        assert 0 < part.sum(-1).min() and part.sum(-1).max() < 1  # the rest is read of the own stream
    again = attention_maps(untrained, CAPTION, latents)
    assert torch.equal(again.words_read, maps.words_read)
    assert not torch.equal(attention_maps(untrained, CAPTION, latents, seed=1).words_read, maps.words_read)


def test_overlay_reddens_the_largest_value():
    picture = overlay(Image.new("RGB", (32, 32), "white"), torch.tensor([[0.0, 0.0], [0.0, 0.1]]), size=64)
    assert picture.size == (64, 64)
    assert picture.getpixel((1, 1)) == (255, 255, 255)
    red, green, blue = picture.getpixel((62, 62))
    assert red > 200 and green < 110 and blue < 110


# Places


def test_regions_are_where_the_keypoints_say():
    picture = world.render(SCENE, 128)
    mask = {name: region(SCENE, attribute) for name, (_, attribute) in things(SCENE).items()}
    at = lambda name, x, y: mask[name][int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4].mean()  # noqa: E731
    x, y, radius = picture.head
    assert at("hair", x, y - 0.7 * radius) > 0.9 and at("clothes", x, y) == 0
    hips = picture.body[[8, 11], :2].mean(axis=0)
    assert at("clothes", *hips) > 0.9 and at("hair", *hips) == 0
    assert max(at("hands", *hand.center) for hand in picture.hand_info) > 0.9
    for foot in picture.feet[..., :2].mean(axis=1):
        assert at("feet", *foot) > 0.9 and at("clothes", *foot) == 0
    assert mask["background"][:20, :20].mean() > 0.5 and at("background", *hips) == 0
    assert 0.01 < mask["prop"].mean() < 0.1


def test_only_what_the_caption_names_and_the_picture_shows_is_located():
    assert list(things(SCENE)) == ["hair", "clothes", "prop", "hands", "feet", "background"]
    for word, _ in things(SCENE).values():
        assert word in world.caption(SCENE)
    bare = replace(SCENE, prop="", hands="手插口袋", framing="半身", action="站立")
    assert list(things(bare)) == ["hair", "clothes", "background"]


def test_a_patch_shows_what_covers_a_good_part_of_it():
    mask = np.zeros((32, 32), bool)
    mask[:16, :16] = True
    mask[16:, :2] = True  # an eighth of a patch
    assert patches_showing(mask, (2, 2)).tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("looks", ["right", "everywhere the same"])
def test_localisation_scores_a_planted_answer(untrained, monkeypatch, looks):
    scenes = [replace(SCENE, seed=seed) for seed in range(4)]

    def answer(pipeline, prompt, latents, *, sigma, seed):
        maps = planted(prompt=prompt)
        patches_read = torch.zeros(1, 1, 64, len(maps.spans))
        for word, attribute in things(scenes[seed]).values():
            best = patches_showing(region(scenes[seed], attribute), (8, 8)).ravel()
            best = best if looks == "right" else np.arange(64) == 0
            rows = torch.from_numpy(np.flatnonzero(best))[:, None]
            patches_read[..., rows, maps.tokens_of(word)] = 1.0
        return replace(maps, grid=(8, 8), patches_read=patches_read, words_read=torch.zeros_like(patches_read).mT)

    monkeypatch.setattr(localisation_module, "attention_maps", answer)
    scores = {score.thing: score for score in localisation(untrained, scenes, size=128)}
    assert set(scores) == set(things(SCENE)) and {score.pictures for score in scores.values()} == {4}
    assert 0.05 < scores["hair"].chance < 0.25 < 0.4 < scores["background"].chance
    if looks == "right":
        assert all(score.patch_reads == 1 for score in scores.values())
        assert scores["feet"].other_words == 0
    else:  # the corner is background: no better than any other word
        assert scores["hair"].patch_reads == scores["hair"].other_words == 0
        assert scores["background"].patch_reads == scores["background"].other_words == 1


@pytest.mark.skipif(
    not (door.MICRO_WEIGHTS / "model_index.json").exists(), reason="the micro weights are being trained"
)
def test_patches_of_the_trained_model_read_the_words_for_what_they_show():
    pipeline = door.load_pipeline("micro", device="cpu")
    rng = np.random.default_rng(11)
    scenes = [world.sample_scene(rng, split="test", framing="全身") for _ in range(12)]
    scores = {score.thing: score for score in localisation(pipeline, scenes)}
    for thing in ("hair", "clothes"):
        assert scores[thing].patch_reads >= 0.75 > 0.3 > max(scores[thing].chance, scores[thing].other_words), thing
