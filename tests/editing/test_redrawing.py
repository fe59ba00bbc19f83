"""Redrawing, extending, strength, grey masks and FlowEdit on a tiny random pipeline: pixels, noise, sizes, refusals."""

import numpy as np
import pytest
import torch
from diffusers import QwenImageImg2ImgPipeline, QwenImageInpaintPipeline
from PIL import Image

from qwenlab.data.keypoints import Keypoints
from qwenlab.editing import extend, flow_edit, img2img, joints_mask, redraw, redraw_softly, sigma_of_strength, word_mask
from qwenlab.editing.flow_editing import velocity
from qwenlab.editing.latents import call_from_latents, from_latents, noise_of, to_latents, to_picture
from qwenlab.editing.masks import grow_to_tokens
from qwenlab.errors import QwenlabError
from qwenlab.model.flow import inference_sigmas
from qwenlab.model.generation import generate
from qwenlab.model.mmdit import pack, unpack

FAST = {"steps": 3, "guidance": 1.0}
PROMPT = "a red square"


def picture(size=(32, 32), seed=0):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def change(old, new):
    return np.abs(np.asarray(old).astype(int) - np.asarray(new)).max(-1)


def square(size, left, top, right, bottom):
    mask = np.zeros(size[::-1], bool)
    mask[top:bottom, left:right] = True
    return mask


# Noise and forms


def test_the_noise_of_a_seed_is_that_of_generate(pipeline):
    """From pure noise, image to image and inpainting of everything are text to image, pixel for pixel."""
    (drawn,) = generate(pipeline, PROMPT, 5, steps=3, guidance=2.0)
    latents = to_latents(pipeline, picture())
    settings = {"seed": 5, "steps": 3, "guidance": 2.0, "strength": 1.0}
    again = call_from_latents(pipeline, QwenImageImg2ImgPipeline, latents, PROMPT, **settings)
    assert change(from_latents(pipeline, again), drawn).max() == 0
    inpainted = call_from_latents(
        pipeline, QwenImageInpaintPipeline, latents, PROMPT, **settings,
        mask_image=Image.new("L", (32, 32), 255), masked_image_latents=latents[None],
    )  # fmt: skip
    assert torch.equal(inpainted, again)
    other = call_from_latents(pipeline, QwenImageImg2ImgPipeline, latents, PROMPT, **settings | {"seed": 6})
    assert not torch.equal(other, again)


def test_forms_lead_to_the_same_latents(pipeline):
    image = picture()
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 127.5 - 1
    latents = to_latents(pipeline, image)
    assert latents.shape == (16, 4, 4) and torch.equal(to_latents(pipeline, pixels), latents)
    assert torch.equal(to_latents(pipeline, latents), latents)
    floats = from_latents(pipeline, latents, "float")
    assert floats.shape == (3, 32, 32) and np.array_equal(to_picture(floats), from_latents(pipeline, latents))


@pytest.mark.parametrize(
    "wrong", [torch.zeros(3, 20, 32), torch.zeros(4, 32, 32), torch.zeros(16, 3, 4), torch.zeros(1, 3, 32, 32)]
)
def test_other_tensors_are_refused(pipeline, wrong):
    with pytest.raises(QwenlabError, match="picture: "):
        img2img(pipeline, wrong, PROMPT, **FAST)


# Strength


@pytest.mark.parametrize(("strength", "steps"), [(0.1, 20), (0.3, 20), (0.33, 7), (1.0, 4), (0.01, 50)])
def test_a_strength_means_the_sigma_that_the_stock_pipeline_starts_from(pipeline, strength, steps):
    seen = []

    def look(stock, step, timestep, state):
        seen.append(float(timestep))
        stock._interrupt = True
        return state

    latents = to_latents(pipeline, picture())
    call_from_latents(
        pipeline, QwenImageImg2ImgPipeline, latents, PROMPT, seed=0, steps=steps, guidance=1.0, strength=strength,
        callback_on_step_end=look,
    )  # fmt: skip
    assert seen[0] / 1000 == pytest.approx(sigma_of_strength(pipeline, strength, steps=steps), abs=1e-5)


def test_more_strength_changes_more(pipeline):
    latents = to_latents(pipeline, picture())
    drawn = [
        img2img(pipeline, latents, PROMPT, strength=s, form="latents", **FAST | {"steps": 10}) for s in (0.1, 0.5, 1)
    ]
    far = [float((new - latents).square().mean()) for new in drawn]
    assert 0 < far[0] < far[1] < far[2]


@pytest.mark.parametrize("size", [(32, 32), (40, 24), (16, 70), (90, 90)])
def test_the_result_has_the_size_of_the_picture(pipeline, size):
    assert img2img(pipeline, picture(size), PROMPT, **FAST).size == size
    assert redraw(pipeline, picture(size), square(size, 2, 2, 9, 9), PROMPT, **FAST).size == size


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"strength": 0}, "strength"), ({"form": "jpeg"}, "form 'jpeg'"), ({"steps": 1}, "steps"), ({"seed": -1}, "seed"),
     ({"guidance": float("nan")}, "guidance")],
)  # fmt: skip
def test_wrong_numbers_are_one_line(pipeline, settings, said):
    with pytest.raises(QwenlabError, match=said) as caught:
        img2img(pipeline, picture(), PROMPT, **settings)
    assert "\n" not in str(caught.value)


# Redraw


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("size", "box"),
    [((32, 32), (3, 5, 6, 8)), ((32, 32), (14, 14, 18, 18)), ((45, 37), (40, 30, 45, 37)),
     ((100, 80), (60, 20, 75, 50)), ((20, 20), (1, 1, 3, 3)), ((90, 90), (5, 5, 85, 85))],
)  # fmt: skip
def test_nothing_outside_changes_and_the_inside_does(pipeline, size, box, exact):
    image, mask = picture(size), square(size, *box)
    drawn = redraw(pipeline, image, mask, PROMPT, exact=exact, **FAST)
    allowed = mask if exact else grow_to_tokens(mask)
    difference = change(image, drawn)
    assert difference[~allowed].max(initial=0) == 0
    assert difference[mask].mean() > 1
    assert drawn.mode == "RGB" and np.array_equal(image, picture(size)), "a new picture"


def test_redraw_depends_on_the_seed_alone(pipeline):
    mask = square((32, 32), 0, 0, 10, 10)
    first, second, other = (redraw(pipeline, picture(), mask, PROMPT, seed=s, **FAST) for s in (1, 1, 2))
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_masks_are_checked(pipeline):
    for mask, said in ((Image.new("L", (16, 32), 255), "16 x 32"), (Image.new("L", (32, 32)), "white"),
                       (Image.new("L", (32, 32), 255), "white everywhere")):  # fmt: skip
        with pytest.raises(QwenlabError, match=said):
            redraw(pipeline, picture(), mask, PROMPT, **FAST)
    assert redraw(pipeline, picture(), Image.new("L", (32, 32), 255), PROMPT, strength=0.4, **FAST).size == (32, 32)


def test_a_freed_text_encoder_is_one_line(pipeline):
    pipeline.text_encoder = None
    with pytest.raises(QwenlabError, match="freed"):
        redraw(pipeline, picture(), square((32, 32), 0, 0, 4, 4), PROMPT, **FAST)


# Grey masks


def test_black_stays_and_grey_changes_less_than_white(pipeline):
    image = picture((64, 32))
    amount = np.zeros((32, 64), np.float32)
    amount[:, 16:40], amount[:, 40:] = 0.3, 1.0
    drawn = redraw_softly(pipeline, image, amount, PROMPT, steps=10, guidance=1.0)
    difference = change(image, drawn)
    assert difference[:, :16].max() == 0
    assert 0 < difference[:, 16:40].mean() < difference[:, 40:].mean()


def test_a_mask_all_white_is_text_to_image(pipeline):
    (drawn,) = generate(pipeline, PROMPT, 3, steps=3, guidance=1.0)
    white = Image.new("L", (32, 32), 255)
    assert change(redraw_softly(pipeline, picture(), white, PROMPT, seed=3, **FAST), drawn).max() == 0


# Extend


@pytest.mark.parametrize(
    ("size", "sides"),
    [((32, 32), {"right": 16}), ((32, 32), {"left": 10, "top": 5}), ((40, 24), {"bottom": 30}),
     ((70, 50), {"left": 8, "right": 8, "top": 8, "bottom": 8}), ((16, 16), {"right": 40})],
)  # fmt: skip
def test_the_old_pixels_lie_in_the_larger_picture(pipeline, size, sides):
    image = picture(size)
    drawn = extend(pipeline, image, PROMPT, **sides, steps=2, guidance=1.0)
    left, top = sides.get("left", 0), sides.get("top", 0)
    assert drawn.size == (size[0] + left + sides.get("right", 0), size[1] + top + sides.get("bottom", 0))
    assert np.array_equal(np.asarray(drawn)[top : top + size[1], left : left + size[0]], image)
    assert np.asarray(drawn)[~known_part(drawn.size, size, left, top)].std() > 0


def known_part(size, old, left, top):
    return square(size, left, top, left + old[0], top + old[1])


def test_windows_of_one_picture_have_noise_of_their_own(pipeline):
    flat = Image.new("RGB", (32, 96), "grey")
    new = np.asarray(extend(pipeline, flat, PROMPT, right=16, **FAST))[:, 32:]
    assert not np.array_equal(new[:32], new[32:64])


# FlowEdit


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_velocity_is_that_of_the_stock_pipeline(pipeline, guidance):
    """Euler steps along it from the noise of a seed end at the latents that the stock pipeline draws."""
    latents = torch.zeros(16, 4, 4)
    x = pack(noise_of(pipeline, latents, 7)[None])
    sigmas = inference_sigmas(4, 4, pipeline.scheduler.config)
    with torch.no_grad():
        text, negative = (pipeline.encode_prompt(prompt) for prompt in (PROMPT, " "))
        for now, then in zip(sigmas[:-1], sigmas[1:], strict=True):
            x = x + (then - now) * velocity(pipeline, x, now.reshape(1), text, negative, guidance, (2, 2))
    drawn = call_from_latents(
        pipeline, QwenImageImg2ImgPipeline, latents, PROMPT, seed=7, steps=4, guidance=guidance, strength=1.0
    )
    assert torch.allclose(unpack(x, (2, 2))[0], drawn, atol=1e-4)


def test_equal_captions_change_nothing_and_others_do(pipeline):
    latents = to_latents(pipeline, picture())
    settings = {"steps": 4, "guidance": 2.0, "form": "latents"}
    same = flow_edit(pipeline, latents, PROMPT, PROMPT, source_guidance=2.0, **settings)
    other = flow_edit(pipeline, latents, PROMPT, "the sky, blue and wide", averages=2, **settings)
    assert torch.allclose(same, latents, atol=1e-5)
    assert (other - latents).abs().mean() > 1e-3


# Masks without a brush


def test_a_word_gives_a_mask_of_whole_tokens(pipeline):
    mask = word_mask(pipeline, picture((40, 64)), "a red square", "red")
    white = np.asarray(mask) > 0
    assert mask.size == (40, 64) and white.any()
    with pytest.raises(QwenlabError, match="'blue'"):
        word_mask(pipeline, picture(), "a red square", "blue")


def joints():
    seen = Keypoints((64, 64), np.zeros((18, 3)), np.zeros((2, 21, 3)), np.zeros((2, 3, 3)))
    rng = np.random.default_rng(0)
    seen.hands[0] = np.concatenate([rng.uniform(5, 20, (21, 2)), np.ones((21, 1))], 1)
    seen.hands[1] = np.concatenate([rng.uniform(40, 60, (21, 2)), np.zeros((21, 1))], 1)
    seen.body[[0, 1]] = [[32, 12, 1], [32, 24, 1]]
    return seen


def test_joints_give_masks_of_one_side():
    right = np.asarray(joints_mask(joints(), "right hand")) > 0
    assert right[12, 12] and not right[:, 32:].any()
    head = np.asarray(joints_mask(joints(), "head")) > 0
    assert head[12, 32] and not head[40:].any()
    for part in ("left hand", "hands", "feet", "nose"):
        with pytest.raises(QwenlabError, match=part):
            joints_mask(joints(), part)
