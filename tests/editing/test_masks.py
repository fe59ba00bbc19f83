"""Masks and windows: read, grown, feathered, refused."""

import numpy as np
import pytest
from PIL import Image

from qwenlab.editing.checks import check_extension, check_something_stays, check_strength
from qwenlab.editing.extending import windows
from qwenlab.editing.masks import blend, feather, grow_to_tokens, read_mask, white_pixels
from qwenlab.editing.windows import whole_window, window_around
from qwenlab.errors import QwenlabError

SIZE = (48, 32)


def white_square():
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[4:9, 20:30] = 255
    return mask


def saved(path, kind):
    """The same white square in the form of many programs."""
    grey = Image.fromarray(white_square())
    if kind == "RGBA":  # white strokes on a transparent layer
        image = Image.merge("RGBA", [grey, grey, grey, grey])
    elif kind == "red":
        image = Image.merge("RGBA", [grey, Image.new("L", SIZE), Image.new("L", SIZE), grey])
    elif kind == "opaque":
        image = Image.merge("RGBA", [grey, grey, grey, Image.new("L", SIZE, 255)])
    elif kind == "16 bits":
        image = Image.fromarray(white_square().astype(np.uint16) * 257)
    else:
        image = grey.convert(kind)
    image.save(path)
    return path


@pytest.mark.parametrize("kind", ["L", "1", "RGB", "P", "LA", "RGBA", "red", "opaque", "16 bits"])
def test_a_mask_is_read_in_any_form(tmp_path, kind):
    mask = read_mask(saved(tmp_path / "mask.png", kind), SIZE)
    assert mask.mode == "L" and np.array_equal(np.asarray(mask), white_square())


def test_a_jpeg_mask_is_read_and_its_noise_is_black(tmp_path):
    Image.fromarray(white_square()).save(tmp_path / "mask.jpg", quality=60)
    white = white_pixels(read_mask(tmp_path / "mask.jpg", SIZE), SIZE)
    assert np.array_equal(white, white_square() > 0)


def refused(call, *parts):
    with pytest.raises(QwenlabError) as caught:
        call()
    assert "\n" not in str(caught.value) and all(part in str(caught.value) for part in parts), caught.value


def test_masks_that_are_refused(tmp_path):
    Image.new("L", (32, 32), 255).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("white")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, SIZE[::-1], np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:600])
    refused(lambda: read_mask(tmp_path / "small.png", SIZE), "small.png", "32 x 32", "48 x 32")
    refused(lambda: read_mask(tmp_path / "none.png", SIZE), "none.png")
    refused(lambda: read_mask(tmp_path / "text.png", SIZE), "text.png")
    refused(lambda: read_mask(tmp_path / "half.png", SIZE), "half.png")
    refused(lambda: white_pixels(Image.new("L", SIZE, 90), SIZE, "a.png"), "a.png", "white")
    refused(lambda: white_pixels(np.ones((4, 4), bool), SIZE), "4 x 4", "48 x 32")
    refused(lambda: check_something_stays(np.ones((4, 4), bool), 1.0), "white everywhere")
    check_something_stays(np.ones((4, 4), bool), 0.5)


@pytest.mark.parametrize("strength", [0, 0.0, -0.1, 1.01, float("nan"), float("inf")])
def test_strengths_that_are_refused(strength):
    refused(lambda: check_strength(strength, "--strength"), "--strength")


@pytest.mark.parametrize("sides", [(0, 0, 0, 0), (-1, 0, 0, 0), (0, 0, 5000, 0), (0, float("nan"), 0, 0)])
def test_extensions_that_are_refused(sides):
    refused(lambda: check_extension((64, 64), *sides), "--")
    refused(lambda: check_extension((64, 8), 16, 0, 0, 0, name="a.png"), "a.png", "64 x 8")


@pytest.mark.parametrize("place", [(0, 0), (7, 5), (15, 47), (31, 16)])
def test_one_pixel_grows_to_its_token(place):
    white = np.zeros(SIZE[::-1], bool)
    white[place] = True
    grown = grow_to_tokens(white)
    assert grown.sum() == 256 and grown[place]
    rows, columns = np.nonzero(grown)
    assert rows.min() % 16 == 0 and columns.min() % 16 == 0


def test_tokens_at_the_edge_of_an_odd_picture_are_cut():
    white = np.zeros((20, 18), bool)
    white[19, 17] = True
    assert grow_to_tokens(white).sum() == 4 * 2


def test_the_feather_lies_inside_and_not_at_the_edge_of_the_picture():
    region = np.zeros((32, 48), bool)
    region[:16, :16] = True
    share = feather(region, 4)
    assert not share[~region].any() and (share[region] > 0).all()
    assert share[0, 0] == 1 and share[0, 15] < 0.2 and share[15, 0] < 0.2 and (np.diff(share[0, 8:16]) <= 0).all()
    assert (feather(np.ones((4, 4), bool)) == 1).all()


def test_blending_keeps_old_pixels_bit_for_bit():
    rng = np.random.default_rng(0)
    old, new = rng.integers(0, 256, (2, 8, 8, 3), np.uint8)
    share = rng.random((8, 8)).astype(np.float32)
    share[:4] = 0
    share[7] = 1
    mixed = blend(old, new, share)
    assert np.array_equal(mixed[:4], old[:4]) and np.array_equal(mixed[7], new[7])
    assert (mixed >= np.minimum(old, new)).all() and (mixed <= np.maximum(old, new)).all()


# Windows


@pytest.mark.parametrize(
    ("size", "box", "width", "drawn"),
    [
        ((128, 128), (0, 0, 16, 16), 128, (128, 128)),  # the model's own size
        ((100, 128), (0, 0, 16, 16), 112, (112, 128)),  # odd: goes on mirrored
        ((64, 64), (0, 0, 16, 16), 64, (128, 128)),  # small: drawn larger
        ((400, 300), (320, 16, 336, 32), 128, (128, 128)),  # large: a part of it
        ((400, 300), (16, 16, 384, 288), 400, (144, 112)),  # a region larger than the model: drawn smaller
        ((400, 64), (320, 16, 336, 32), 256, (256, 64)),  # low and wide
    ],
)
def test_a_window_holds_the_region_at_the_models_size(size, box, width, drawn):
    window = window_around(box, size, 128)
    assert (window.width, window.drawn) == (width, drawn)
    assert window.left % 16 == 0 and window.top % 16 == 0
    assert window.left <= box[0] and window.left + window.width >= box[2]
    assert window.top <= box[1] and window.top + window.height >= box[3]
    assert drawn[0] * drawn[1] <= 1.1 * 128**2 and drawn[0] % 16 == drawn[1] % 16 == 0


@pytest.mark.parametrize("size", [(128, 128), (100, 90), (40, 70), (333, 222)])
def test_what_is_cut_goes_back(size):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    window = window_around((16, 16, 32, 32), size, 128)
    cut = window.cut(pixels)
    assert cut.shape == (window.height, window.width, 3)
    assert np.array_equal(
        window.put(np.zeros_like(pixels), Image.fromarray(cut)), window.put(pixels * 0, pixels_of(cut))
    )
    if (window.width, window.height) == window.drawn:
        again = window.put(pixels, window.view(pixels))
        assert np.array_equal(again, pixels)


def pixels_of(cut):
    return Image.fromarray(cut.copy())


def test_a_picture_smaller_than_a_token_is_refused():
    refused(lambda: window_around((0, 0, 8, 8), (15, 200), 128), "15 x 200", "16")
    refused(lambda: whole_window((200, 15), 128), "200 x 15")


@pytest.mark.parametrize("sides", [(48, 0, 0, 0), (0, 48, 0, 0), (0, 0, 0, 10), (200, 7, 33, 64)])
@pytest.mark.parametrize("size", [(128, 128), (50, 70), (300, 40), (300, 300)])
def test_windows_cover_all_that_is_new_and_show_what_is_there(size, sides):
    left, right, top, bottom = sides
    known = np.pad(np.ones(size[::-1], bool), ((top, bottom), (left, right)))
    for window in windows(size, sides, 128):
        assert window.width % 16 == window.height % 16 == 0
        rows = slice(max(window.top, 0), window.top + window.height)
        columns = slice(max(window.left, 0), window.left + window.width)
        shown = known[rows, columns]
        assert not shown.all() and shown.mean() >= 0.35, "every window draws something, beside what is there"
        shown[:] = True
    assert known.all()
