"""Clean tokens beside noisy ones: as the stock Edit pipeline has them, on a text-to-image pipeline, and Edit models."""

import numpy as np
import pytest
import torch
from diffusers import QwenImageEditPlusPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as stock
from PIL import Image

from qwenlab.errors import QwenlabError
from qwenlab.model.generation import generate
from qwenlab.model.pipeline import load_pipeline
from qwenlab.model.references import beside_references, encode_instruction, generate_beside, reference_size
from tests.tiny import SIZE, tiny_pipeline
from tests.tiny_edit import tiny_edit_pipeline


def noise(seed, size=(SIZE, SIZE), mode="RGB"):
    shape = (8, 8, len(mode)) if len(mode) > 1 else (8, 8)
    pixels = np.random.default_rng(seed).integers(0, 255, shape, np.uint8)
    return Image.fromarray(pixels, mode).resize(size, Image.Resampling.NEAREST)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    """The Edit pipeline scales references to a million pixels; here to those of the tiny model."""
    monkeypatch.setattr(stock, "VAE_IMAGE_SIZE", SIZE * SIZE)
    monkeypatch.setattr(stock, "CONDITION_IMAGE_SIZE", 56 * 56)


def latents_of(pipeline, pictures, embeddings):
    """The final latents, which show more than pixels of a random model do."""
    seen = {}

    def keep(module, args, output):
        seen["prediction"] = output[0]

    handle = pipeline.transformer.register_forward_hook(keep)
    image = generate_beside(pipeline, pictures, "红色", 3, steps=3, guidance=1.0, embeddings=embeddings)
    handle.remove()
    return seen["prediction"][:, : SIZE * SIZE // 256], np.asarray(image)


@pytest.mark.parametrize("count", [1, 2])
def test_a_text_to_image_pipeline_with_reference_tokens_is_the_edit_pipeline(count):
    pictures = [noise(seed) for seed in range(count)]
    edit, plain = tiny_edit_pipeline(), tiny_pipeline()
    embeddings = {text: encode_instruction(edit, text, pictures) for text in ("红色", " ")}
    there, image = latents_of(edit, pictures, None)
    here, same = latents_of(plain, pictures, embeddings)
    assert torch.equal(there, here) and np.array_equal(image, same)
    guided = generate_beside(edit, pictures, "红色", 3, steps=3, guidance=3.0)
    again = generate_beside(plain, pictures, "红色", 3, steps=3, guidance=3.0, embeddings=embeddings)
    assert np.array_equal(guided, again)
    other, _ = latents_of(plain, [noise(9), *pictures[1:]], embeddings)
    assert (other - here).abs().max() > 1e-5, "the reference is read"


def test_the_hook_is_gone_afterwards(pipeline):
    before = generate(pipeline, "红色", 0, steps=2)[0]
    with pytest.raises(RuntimeError), beside_references(pipeline.transformer, [torch.zeros(16, 4, 4)]):
        raise RuntimeError
    assert not pipeline.transformer._forward_pre_hooks and not pipeline.transformer._forward_hooks
    assert np.array_equal(before, generate(pipeline, "红色", 0, steps=2)[0])


def test_a_batch_shares_the_references(pipeline):
    """Two pictures at once are those drawn one by one, but for rounding."""
    with beside_references(pipeline.transformer, [torch.ones(16, 4, 4)]):
        both = generate(pipeline, ["红色", "红色短发"], [1, 2], steps=2)
        each = [generate(pipeline, text, seed, steps=2)[0] for text, seed in (("红色", 1), ("红色短发", 2))]
    for one, other in zip(both, each, strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1


def test_an_instruction_is_encoded_together_with_its_pictures():
    edit = tiny_edit_pipeline()
    one, two = (encode_instruction(edit, "红色", pictures) for pictures in ([noise(0)], [noise(0), noise(1)]))
    none = encode_instruction(edit, "红色", [])
    extra = edit.tokenizer("Picture 2: <|vision_start|><|image_pad|><|vision_end|>")["input_ids"]
    assert len(one) > len(none) and len(two) - len(one) >= len(extra) - 1
    assert (one - encode_instruction(edit, "红色", [noise(1)])).abs().max() > 1e-3
    inputs = edit.processor(text=[edit.prompt_template_encode.format("红色")], return_tensors="pt")["input_ids"]
    assert len(none) == inputs.shape[1] - 64, "64 tokens of the template are dropped"


def test_a_saved_edit_pipeline_is_loaded_as_what_it_is(tmp_path):
    tiny_edit_pipeline(zero_cond_t=True).save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path)
    assert type(loaded) is QwenImageEditPlusPipeline and loaded.transformer.config.zero_cond_t
    fresh = tiny_edit_pipeline(zero_cond_t=True)
    loaded.default_sample_size = fresh.default_sample_size
    pictures = [noise(0)]
    a, b = (np.asarray(generate_beside(p, pictures, "红色", steps=2)).astype(int) for p in (loaded, fresh))
    assert np.abs(a - b).max() <= 1, "the folded VAE rounds otherwise"
    with pytest.raises(QwenlabError, match="draws from pictures only"):
        generate(loaded, "红色", 0)


def test_references_of_2511_are_modulated_at_timestep_zero():
    plain, other = tiny_edit_pipeline(), tiny_edit_pipeline(zero_cond_t=True)
    assert (latents_of(plain, [noise(0)], None)[0] - latents_of(other, [noise(0)], None)[0]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("size", "most", "expected"),
    [
        ((128, 128), None, (128, 128)), ((130, 119), None, (128, 112)), ((16, 20), None, (16, 16)),
        ((17, 500), None, (16, 496)), ((4000, 3000), 1024**2, (1184, 880)), ((1024, 1024), 1024**2, (1024, 1024)),
    ],
)  # fmt: skip
def test_references_keep_their_size_in_whole_tokens(size, most, expected):
    assert reference_size(size, most) == expected


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([], "references: none is given"),
        ([noise(0, mode="RGBA")], "reference 1: its mode is RGBA; convert"),
        ([noise(0), noise(1).convert("L")], "reference 2: its mode is L"),
        ([noise(0, (15, 64))], "reference 1: 15 x 64 pixels, less than one token"),
    ],
)
def test_pictures_that_cannot_be_references(pipeline, pictures, message):
    with pytest.raises(QwenlabError, match=message) as error:
        generate_beside(pipeline, pictures, "红色")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("size", "expected"), [((40, 80), (16, 48)), ((32, 32), (32, 32)), ((25, 23), (32, 16))])
def test_odd_sizes_are_drawn_in_whole_tokens(pipeline, size, expected):
    assert generate_beside(pipeline, [noise(0, size)], "红色", steps=2).size == expected
    assert generate_beside(pipeline, [noise(0, size)], "红色", steps=2, size=(48, 32)).size == (48, 32)
