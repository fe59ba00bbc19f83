"""Picture grids: layout, text that can be drawn, and the alternative text of notebook outputs."""

import io
import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from qwenlab.lab import world
from qwenlab.lab.world.sample import sample_scenes
from qwenlab.show import (
    animation,
    encode_for_page,
    encode_image,
    figure_table,
    grid,
    image_table,
    progress_stream,
    text_table,
)


@pytest.fixture
def pictures():
    return [Image.new("RGB", (32, 32), color) for color in ("red", "green", "blue", "white", "black", "gray")]


@pytest.fixture
def shown(monkeypatch):
    """What goes to the notebook: (data, metadata) of each output."""
    outputs = []
    monkeypatch.setattr(
        "IPython.display.display", lambda data, metadata=None, raw=False: outputs.append((data, metadata))
    )
    return outputs


def test_grid_places_pictures_row_by_row(pictures):
    sheet = grid(pictures, columns=3)
    assert sheet.size == (3 * 36 + 4, 2 * 36 + 4)
    assert sheet.getpixel((4 + 16, 4 + 16)) == (255, 0, 0)
    assert sheet.getpixel((4 + 36 + 16, 4 + 16)) == (0, 128, 0)
    assert sheet.getpixel((4 + 36 + 16, 4 + 36 + 16)) == (0, 0, 0)


def test_labels_make_room_below_and_are_drawn(pictures):
    plain, labelled = grid(pictures, columns=3), grid(pictures, ["I"] * 6, columns=3)
    assert labelled.height > plain.height
    strip = labelled.crop((4, 36, 36, 36 + (labelled.height - plain.height) // 2))
    assert min(strip.convert("L").tobytes()) < 128


def test_text_that_no_font_can_draw_is_refused(pictures):
    with pytest.raises(ValueError, match="image_table"):
        grid(pictures, ["双马尾"] * 6)
    with pytest.raises(ValueError, match="2 labels for 6"):
        grid(pictures, ["a", "b"])
    with pytest.raises(ValueError, match="no pictures"):
        grid([])


def test_table_shows_picture_with_alt_text_then_captions(pictures, shown):
    table = image_table(pictures, ["双马尾 & <b>", "短发", "长发"], alt="Six colours.", heads=("base", "LoRA"))
    table._ipython_display_()
    (picture, metadata), (captions, _) = shown
    (kind,) = metadata
    assert kind in picture and metadata[kind]["alt"] == "Six colours."
    assert picture["text/plain"] == "Six colours."
    assert "双马尾 &amp; &lt;b&gt;" in captions["text/html"]
    assert captions["text/plain"].splitlines() == ["Six colours.", "1. 双马尾 & <b>", "2. 短发", "3. 长发"]


def test_an_animation_has_words_beside_it_and_frames_of_one_size():
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    (picture, metadata), (words, _) = animation(frames, alt="Red turns <blue>.").outputs()
    assert metadata["image/png"] == {"alt": "Red turns <blue>.", "width": 64} and picture["text/plain"]
    assert "Red turns &lt;blue&gt;." in words["text/html"]
    with pytest.raises(ValueError, match="one size"):
        animation([*frames, Image.new("RGB", (16, 16))], alt="Two sizes.")
    with pytest.raises(ValueError, match="alt"):
        animation(frames, alt=" ")


def test_one_caption_needs_no_number(pictures, shown):
    table = image_table(pictures[:3], ["双马尾"], alt="Three colours.")
    table._ipython_display_()
    assert shown[1][0]["text/plain"] == "Three colours.\n双马尾" and "<ol" not in shown[1][0]["text/html"]
    assert table.sheet.size == image_table(pictures[:3], alt="Three colours.").sheet.size, "no line for numbers"


def test_named_rows_need_no_numbers(pictures):
    heads = {"alt": "Six colours.", "columns": 3, "rows": ["base", "LoRA"]}
    table = image_table(pictures, ["双马尾", "短发"], **heads)
    assert table.sheet.size == image_table(pictures, **heads).sheet.size and len(table.captions) == 2
    each = image_table(pictures, list("abcdef"), **heads)
    assert each.sheet.height > table.sheet.height, "a caption for each picture does"


def test_the_description_is_visible_without_captions_too(pictures, shown):
    image_table(pictures, alt="Six & more.")._ipython_display_()
    _, (words, _) = shown
    assert "Six &amp; more." in words["text/html"] and "<ol" not in words["text/html"]


def test_small_pictures_are_shown_twice_as_large_where_there_is_room(pictures, shown):
    image_table(pictures[:2], alt="Two colours.")._ipython_display_()
    (metadata,) = shown[0][1].values()
    assert metadata["width"] == 2 * (2 * 36 + 4)
    wide = image_table([Image.new("RGB", (200, 200))] * 4, alt="Four.")
    assert wide.sheet.width == 820 and wide.width == 960
    assert image_table([Image.new("RGB", (200, 200))] * 6, alt="Six.").width is None
    assert image_table([Image.new("RGB", (300, 300))], alt="One large.").width is None


def test_rows_have_heads(pictures):
    sheet = grid(pictures, columns=3, rows=["first row", "second"])
    extra = sheet.width - grid(pictures, columns=3).width
    assert extra > 30 and sheet.height == grid(pictures, columns=3).height
    for row in range(2):
        strip = sheet.crop((0, 4 + 36 * row, extra, 36 + 36 * row))
        assert min(strip.convert("L").tobytes()) < 128, f"row {row} has no head"
    assert sheet.getpixel((extra + 4 + 16, 4 + 16)) == (255, 0, 0)
    with pytest.raises(ValueError, match="1 row heads for 2 rows"):
        grid(pictures, columns=3, rows=["a"])


def test_table_needs_alt_text_and_fitting_captions(pictures):
    with pytest.raises(ValueError, match="alt"):
        image_table(pictures, alt=" ")
    with pytest.raises(ValueError, match="4 captions for 6 pictures in 2 rows"):
        image_table(pictures, ["a"] * 4, alt="Six colours.", columns=3)


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".JPG", b"\xff\xd8"), (".webp", b"RIFF")])
def test_encode_image(pictures, suffix, start):
    assert encode_image(pictures[0], suffix).startswith(start)


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)


def test_a_plot_becomes_a_palette_that_keeps_every_line():
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    for number in range(6):
        axes.plot([0, 1], [number, number / 2 + 1], color=f"C{number}", linewidth=0.8)
    plot = figure_table(figure, alt="Six lines.").sheet
    kind, data = encode_for_page(plot)
    assert kind == "image/png"
    assert np.abs(decoded(data) - np.asarray(plot, int)).max() <= 16
    assert len(data) < len(encode_image(plot, ".jpg")) / 2


def test_a_drawing_becomes_a_smaller_jpeg_with_its_outlines_and_small_coloured_shapes():
    sheet = grid([Image.fromarray(world.render(scene, 128).image) for scene in sample_scenes(8)])
    kind, data = encode_for_page(sheet)
    assert kind == "image/jpeg"
    assert len(data) < 0.65 * len(encode_image(sheet, ".jpg"))
    shown = Image.open(io.BytesIO(data))
    difference = np.asarray(shown.convert("YCbCr"), int) - np.asarray(sheet.convert("YCbCr"), int)
    light, *color = np.sqrt((difference**2).mean((0, 1)))  # root mean squares, of 255
    assert light < 7 and max(color) < 5


def test_figure_becomes_a_table_and_is_closed():
    import matplotlib.pyplot as plt

    figure, _ = plt.subplots(figsize=(2, 1))
    table = figure_table(figure, alt="An empty plot.")
    assert str(table) == "An empty plot."
    assert table.sheet.width > table.sheet.height
    assert not plt.fignum_exists(figure.number)


def test_a_text_table_is_aligned_and_wants_the_same_keys_everywhere():
    lines = text_table([{"name": "a", "GiB": 1.0}, {"name": "longer", "GiB": 10.25}]).splitlines()
    assert lines == ["name      GiB", "a        1.00", "longer  10.25"]
    with pytest.raises(ValueError, match="same keys"):
        text_table([{"a": 1}, {"b": 1}])
    with pytest.raises(ValueError, match="rows"):
        text_table([])


def test_progress_is_not_on_red_in_a_notebook(monkeypatch):
    """A kernel's shell has the kernel; a terminal's IPython has none."""
    assert progress_stream() is sys.stderr
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel=object()))
    assert progress_stream() is sys.stdout
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace())
    assert progress_stream() is sys.stderr


def test_advice_for_a_kernel_that_is_switched_off_is_not_passed_on(caplog):
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.warning(
        "Failed to load CPU gemm_4bit_forward from kernels-community: %s. Please ... `pip install kernels`", 1
    )
    logger.warning("something else")
    assert [record.message for record in caplog.records] == ["something else"]


@pytest.mark.parametrize("side", [64, 128, 190])
def test_words_of_a_head_stand_apart(side):
    def ink(text):
        sheet = grid([Image.new("RGB", (side, side), "white")], rows=[text], columns=1)
        left = sheet.width - side - 4
        return [
            sheet.getpixel((x, y)) != (255, 255, 255) for x in range(left) for y in range(sheet.height)
        ], sheet.height

    flat, height = ink("no LoRA")
    columns = [any(flat[start : start + height]) for start in range(0, len(flat), height)]
    gaps = "".join(" x"[column] for column in columns).strip().split("x")
    font = max(11, side // 11)
    assert max(map(len, gaps)) >= font / 4, "the space between two words is no wider than between two letters"
