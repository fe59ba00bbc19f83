"""The parts of the micro model: tokenizer, text path, optimiser, pictures, and the pipeline they make."""

import json
import math

import numpy as np
import pytest
import torch
from diffusers import QwenImagePipeline
from transformers import Qwen2Tokenizer

from qwenlab.files import REPOSITORY
from qwenlab.lab import world
from qwenlab.lab.micro import pictures
from qwenlab.lab.micro.assemble import assemble, save_pipeline
from qwenlab.lab.micro.muon import Muon, orthogonalise
from qwenlab.lab.micro.text_encoder import build_text_encoder, encode_tokens, pad_prompts, tokenize_prompts
from qwenlab.lab.micro.tokenizer import PROMPT_TEMPLATE, TEMPLATE_TOKENS, build_tokenizer, check_template
from qwenlab.lab.micro.transformer import build_transformer
from qwenlab.lab.micro.vae import build_vae


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    return build_tokenizer()


@pytest.fixture(scope="module")
def pipeline(tokenizer: Qwen2Tokenizer) -> QwenImagePipeline:
    text_encoder = build_text_encoder(tokenizer, 1, num_hidden_layers=1, intermediate_size=32)
    return assemble(build_vae(0, base_dim=4), build_transformer(192, 2, num_layers=1), text_encoder, tokenizer)


def captions(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [world.caption(world.sample_scene(rng)) for _ in range(count)]


def test_template_is_the_34_tokens_that_the_pipeline_drops(tokenizer: Qwen2Tokenizer) -> None:
    prefix = PROMPT_TEMPLATE.split("{}")[0]
    assert len(tokenizer(prefix).input_ids) == TEMPLATE_TOKENS == 34
    for text in ("1女孩", " ", "", "\n", "hello"):
        assert tokenizer(PROMPT_TEMPLATE.format(text)).input_ids[:33] == tokenizer(prefix).input_ids[:33]


def test_captions_are_short_and_their_words_whole(tokenizer: Qwen2Tokenizer) -> None:
    for caption in captions(200):
        ids = tokenizer(caption).input_ids
        assert len(ids) <= 32
        assert tokenizer.decode(ids) == caption
    for color in world.ATTRIBUTES["hair_color"]:
        for style in world.ATTRIBUTES["hair_style"]:
            assert len(tokenizer(f" {color}{style}").input_ids) == 2  # no combination has a token of its own


def test_any_text_survives_and_saving_keeps_every_token(tokenizer: Qwen2Tokenizer, tmp_path) -> None:
    texts = ["Zoë's 猫 🎈 -- 100%\n\ttab", "穿着和服的龍", *captions(20)]
    tokenizer.save_pretrained(tmp_path)
    loaded = Qwen2Tokenizer.from_pretrained(tmp_path)
    check_template(loaded)
    for text in texts:
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids) == text
        assert loaded(text).input_ids == ids
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 200_000


def test_check_template_sees_a_foreign_tokenizer(tokenizer: Qwen2Tokenizer) -> None:
    bare = Qwen2Tokenizer(vocab={"<|endoftext|>": 0, **{chr(i): i for i in range(33, 127)}}, merges=[])
    with pytest.raises(ValueError, match="34 tokens"):
        check_template(bare)


def test_prompts_are_encoded_as_in_the_stock_pipeline(pipeline: QwenImagePipeline) -> None:
    prompts = [*captions(3), " "]
    rows = tokenize_prompts(pipeline.tokenizer, prompts)
    ids, mask = pad_prompts(rows, pipeline.tokenizer.pad_token_id, "cpu")
    with torch.no_grad():
        ours, our_mask = encode_tokens(pipeline.text_encoder, ids, mask)
        stock, stock_mask = pipeline.encode_prompt(prompts)
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-5)
    assert torch.equal(our_mask, stock_mask)
    ids, mask = pad_prompts(rows[:1], pipeline.tokenizer.pad_token_id, "cpu")
    assert encode_tokens(pipeline.text_encoder, ids, mask)[1] is None


def test_builds_are_reproducible(tokenizer: Qwen2Tokenizer) -> None:
    for build in (
        lambda: build_vae(3, base_dim=4),
        lambda: build_transformer(192, 3, num_layers=1),
        lambda: build_text_encoder(tokenizer, 3, num_hidden_layers=1),
    ):
        first, second = build().state_dict(), build().state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_assembled_pipeline_generates_saves_and_loads(pipeline: QwenImagePipeline, tmp_path) -> None:
    assert type(pipeline) is QwenImagePipeline
    folder = save_pipeline(pipeline, tmp_path / "pipeline", size=32)
    assert not any(str(tmp_path.name) in file.read_text() for file in folder.rglob("*.json"))
    loaded = QwenImagePipeline.from_pretrained(folder, dtype=torch.float32)
    for part in ("vae", "transformer", "text_encoder"):
        for name, value in getattr(pipeline, part).state_dict().items():
            stored = getattr(loaded, part).state_dict()[name]
            assert torch.equal(stored, value.bfloat16().float()), f"{part}.{name} is not the bf16 of what was saved"
    loaded.set_progress_bar_config(disable=True)
    # Without guidance: an untrained transformer answers zero, and true CFG divides by the norm of the answer.
    images = loaded(["1女孩", " "], true_cfg_scale=1.0, height=32, width=32, num_inference_steps=2).images
    assert [image.size for image in images] == [(32, 32)] * 2


def test_orthogonalise_gives_singular_values_near_one() -> None:
    for shape in ((24, 60), (60, 24), (3, 16, 16)):
        g = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalise(g))
        assert values.max() < 1.3 and values.median() > 0.6


def test_muon_leaves_unused_slices_alone_and_lowers_a_loss() -> None:
    torch.manual_seed(0)
    kernel, bias = torch.nn.Parameter(torch.randn(8, 8, 3, 3, 3)), torch.nn.Parameter(torch.zeros(8))
    before = kernel.detach().clone()
    optimizer = Muon([{"params": [kernel], "muon": True}, {"params": [bias], "muon": False}], lr=0.2)
    target, losses = torch.randn(8, 8, 3, 3), []
    for _ in range(60):
        loss = (kernel[:, :, -1] + bias.view(-1, 1, 1, 1) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert torch.equal(kernel[:, :, :-1], before[:, :, :-1])


def test_pictures_depend_on_their_index_alone() -> None:
    draw = pictures.Draw(seed=5, stream="test", size=64, open_hands=1.0, wrong_anatomy=0.5)
    image, points, caption = pictures.draw_picture(draw, 7)
    with pictures.Painter(workers=1) as painter:
        images, all_points, texts = painter.draw(draw, range(6, 9))
    assert np.array_equal(images[1], image) and texts[1] == caption
    assert np.array_equal(all_points[1], points, equal_nan=True)
    assert not np.array_equal(images[0], images[1])
    assert np.isfinite(points).any()


def test_pool_at_a_step_is_the_same_however_one_gets_there() -> None:
    draw = pictures.Draw(seed=1, stream="pool", size=32)
    with pictures.Painter(workers=1) as painter:
        walked = pictures.PicturePool(painter, draw, size=6, refresh=2, refresh_every=5)
        for step in range(18):
            walked.at_step(step)
        jumped = pictures.PicturePool(painter, draw, size=6, refresh=2, refresh_every=5)
        jumped.at_step(17)
    assert np.array_equal(walked.images, jumped.images)
    crops = jumped.crops(pictures.derived_rng(1, "crops", 17), batch=9, crop=16, focus=0.6)
    assert crops.shape == (9, 16, 16, 3) and crops.std() > 1


def test_training_splits_never_mix() -> None:
    for split in ("train", "test"):
        draw = pictures.Draw(seed=2, stream=split, split=split)
        for index in range(50):
            scene, _ = pictures.draw_scene(draw, index)
            assert world.is_held_out(scene) == (split == "test")


def test_the_shipped_size_fits() -> None:
    transformer = sum(p.numel() for p in build_transformer(192, 0).parameters())
    vae = sum(p.numel() for p in build_vae(0).parameters())
    assert math.isclose(transformer, 8.2e6, rel_tol=0.05) and 2 * (transformer + vae + 1.1e6) < 32e6


def test_data_sheet_quotes_the_stored_measurement() -> None:
    sheet = (REPOSITORY / "qwenlab/lab/micro/README.md").read_text(encoding="utf-8")
    stored = json.loads((REPOSITORY / "benchmarks/micro/base_rates.json").read_text(encoding="utf-8"))
    lowest = min(stored["attributes"], key=lambda name: stored["attributes"][name]["value"])
    assert lowest == "hair_style" and f"(hair style {stored['attributes'][lowest]['value']:.1%}, the lowest" in sheet
    least = min(stored["attributes"][name]["value"] for name in ("hair_color", "clothes", "background", "view"))
    assert f"hair colour, clothes, place and view {least:.1%} or more" in sheet
    hands, feet = stored["anatomy"]["hands"], stored["anatomy"]["feet"]
    assert f"of {hands['total']} that the judge found, {hands['count']} had\nfive fingers" in sheet
    assert f"rendered, show it {stored['hands_found_in_renderings']}." in sheet
    assert f"Two well-formed feet: {feet['value']:.0%} of" in sheet


def test_data_sheet_of_the_judge_quotes_the_stored_measurement() -> None:
    sheet = (REPOSITORY / "qwenlab/lab/judge/README.md").read_text(encoding="utf-8")
    drawn, through_vae = (
        json.loads((REPOSITORY / f"benchmarks/micro/judge_{name}.json").read_text())["fingers"]
        for name in ("renderings", "vae")
    )
    assert f"{through_vae['right']:.1%} of {through_vae['hands']:,} hands" in sheet
    assert f"{drawn['right']:.1%} as drawn" in sheet
    assert through_vae["right"] >= 0.97
