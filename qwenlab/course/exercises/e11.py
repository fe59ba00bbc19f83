"""Exercises of lesson 11: masks in whole tokens, blending while drawing, and what a reference costs."""

from __future__ import annotations

import numpy as np
import torch

from qwenlab.course.exercises.checking import Problem, array, call, exercise


@exercise(
    task="The stock inpainting pipeline looks at one pixel of the mask for each latent cell. Write `grow(mask)`: a "
    "mask (H, W) of True and False, whose sides are multiples of 16, becomes one that is True in the whole of every "
    "token of 16 x 16 pixels that it touches.",
    stub="def grow(mask): ...",
    hint="With `H, W = mask.shape`, `mask.reshape(H // 16, 16, W // 16, 16)` puts the pixels of a token on axes 1 and "
    "3, and `any(axis=(1, 3))` says whether at least one of them is True. `repeat` makes pixels of tokens again.",
    solution="def grow(mask):\n"
    "    rows, columns = mask.shape[0] // 16, mask.shape[1] // 16\n"
    "    touched = mask.reshape(rows, 16, columns, 16).any(axis=(1, 3))\n"
    "    return touched.repeat(16, axis=0).repeat(16, axis=1)",
)
def e11_1(answer):
    mask = np.zeros((48, 64), bool)
    mask[14:18, 33] = mask[47, 63] = mask[8, 0] = mask[32:, :16] = True  # two tokens' edge, corners, a full token
    tokens = np.zeros((3, 4), bool)
    tokens[[0, 1, 2, 0, 2], [2, 2, 3, 0, 0]] = True
    right = tokens.repeat(16, 0).repeat(16, 1)
    cells = mask.reshape(6, 8, 8, 8).any(axis=(1, 3)).repeat(8, 0).repeat(8, 1)
    full = mask.reshape(3, 16, 4, 16).all(axis=(1, 3)).repeat(16, 0).repeat(16, 1)
    array(
        call(answer, mask), right, what="the grown mask",
        mistakes=[
            (mask, "it is the mask as it was"),
            (cells, "these are latent cells of 8 pixels; a token is two cells wide and high"),
            (mask[::8, ::8].repeat(8, 0).repeat(8, 1), "that is what the stock pipeline does: it samples"),
            (full, "a token counts when it is touched, not when it is full: any, not all"),
            (np.tile(tokens, (16, 16)), "np.tile lays the tokens side by side again and again; use repeat"),
        ],
    )  # fmt: skip


@exercise(
    task="After a step of the sampler `x` has the noise level `sigma`. Write `hold(x, source, noise, sigma, mask)`: "
    "where the mask is 0 the result is the source, noised to this very level; where it is 1 it is `x`. All are "
    "tensors of one shape but for `sigma`, a number.",
    stub="def hold(x, source, noise, sigma, mask): ...",
    hint="In this flow data and noise are mixed on a straight line: at sigma 0 all data, at sigma 1 all noise.",
    solution="def hold(x, source, noise, sigma, mask):\n"
    "    noised = (1 - sigma) * source + sigma * noise\n"
    "    return mask * x + (1 - mask) * noised",
)
def e11_2(answer):
    generator = torch.Generator().manual_seed(11)
    x, source, noise = torch.randn(3, 2, 4, 4, generator=generator)
    mask = torch.zeros(2, 4, 4)
    mask[:, 1:3, :2] = 1
    sigma = 0.3
    noised = (1 - sigma) * source + sigma * noise
    array(
        call(answer, x, source, noise, sigma, mask), mask * x + (1 - mask) * noised, what="the result",
        mistakes=[
            (mask * x + (1 - mask) * source, "the source came in clean, and x is noisy: noise it to the same level"),
            ((1 - mask) * x + mask * noised, "1 in the mask is what is drawn again, so x stays there"),
            (mask * x + (1 - mask) * (sigma * source + (1 - sigma) * noise), "sigma is the share of noise"),
            (mask * x + (1 - mask) * (source + sigma * noise), "the source shrinks as the noise grows: 1 - sigma"),
            (noised, "the part that is drawn again is missing"),
        ],
    )  # fmt: skip


@exercise(
    task="Write `tokens(size, references)`: how many image tokens the transformer reads to draw a picture of `size` "
    "beside these references. `size` is (width, height) in pixels, `references` a list of such, all in multiples of "
    "16.",
    stub="def tokens(size, references): ...",
    hint="A token is 16 x 16 pixels, and each picture brings its own. With no reference it is text to image.",
    solution="def tokens(size, references):\n"
    "    return sum((width // 16) * (height // 16) for width, height in [size, *references])",
)
def e11_3(answer):
    cases = [((128, 128), []), ((128, 128), [(128, 128)]), ((160, 96), [(128, 128), (64, 32)])]
    rights = [64, 128, 60 + 64 + 8]
    for (size, references), right in zip(cases, rights, strict=True):
        found = call(answer, size, references)
        if isinstance(found, bool) or not isinstance(found, (int, float, np.number)):
            raise Problem(f"tokens should return a number, not a value of type {type(found).__name__}")
        if found == right:
            continue
        given = f"for {size} and {references or 'no references'}"
        if found == 4 * right:
            raise Problem(f"{found:g} {given}: these are latent cells of 8 pixels; a token is 2 x 2 of them")
        if found == 256 * right:
            raise Problem(f"{found:g} {given}: these are pixels; a token is 16 x 16 of them")
        if references and found == (size[0] // 16) * (size[1] // 16):
            raise Problem(f"{found:g} {given}: the references are read, too")
        raise Problem(f"{found:g} {given}, and {right} is wanted")
