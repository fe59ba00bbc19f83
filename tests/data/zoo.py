"""Broken data sets: each function breaks a good one in one way, and says which rule must find it, where.

`ZOO` holds name -> Animal; `good_folder` writes the data set that they break.
"""

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from qwenlab.lab.world.attributes import caption
from qwenlab.lab.world.render import render
from qwenlab.lab.world.sample import sample_scenes
from tests.data.profiles import DISPLAY_P3, rgb_profile

COUNT, SIZE = 5, 128
ORIENTATION = 0x0112


@dataclass(frozen=True)
class Animal:
    """break_it(folder) damages a good folder; `rule` must then be found at a place containing `where`.

    mended: the finding is gone in a repaired copy. empty: nothing is left to repair, which is said in one line.
    """

    break_it: Callable[[Path], None]
    rule: str
    where: str
    mended: bool = True
    empty: bool = False


ZOO: dict[str, Animal] = {}


def animal(rule: str, where: str = "", **options: bool):
    def register(function):
        assert function.__name__ not in ZOO
        ZOO[function.__name__] = Animal(function, rule, where, **options)
        return function

    return register


def good_folder(folder: Path, count: int = COUNT) -> Path:
    """`count` drawn pictures of one character, img_1.png ..., with captions in the template."""
    (folder / "images").mkdir(parents=True)
    for number, scene in enumerate(sample_scenes(count, seed=3), 1):
        Image.fromarray(render(scene, SIZE).image).save(folder / "images" / f"img_{number}.png")
        add(folder, f"img_{number}.png", caption(scene))
    return folder


def add(folder: Path, name: str, text: str = "1女孩, 另一张") -> None:
    """One more caption line."""
    add_line(folder, json.dumps({"file_name": name, "text": text}).encode())


def add_line(folder: Path, line: bytes) -> None:
    with open(folder / "captions.jsonl", "ab") as file:
        file.write(line + b"\n")


def picture(folder: Path, number: int = 1) -> Image.Image:
    with Image.open(folder / "images" / f"img_{number}.png") as image:
        return image.convert("RGB")


def put(folder: Path, name: str, data: bytes | Image.Image, format: str = "PNG", **options) -> None:
    """A file in images/ with a caption of its own."""
    if isinstance(data, Image.Image):
        data = encode(data, format, **options)
    (folder / "images" / name).write_bytes(data)
    add(folder, name)


def encode(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def new_picture(seed: int = 9, size: int = SIZE) -> Image.Image:
    """A picture of the same character that the good folder does not hold."""
    return Image.fromarray(render(sample_scenes(1, seed=seed)[0], size).image)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk, after its header of 33 bytes."""
    return data[:33] + chunk(kind, content) + data[33:]


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG by hand, for what Pillow does not write; `rows` are the filtered rows, not yet compressed."""

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# The folder


@animal("no-captions", "captions.jsonl", empty=True)
def captions_missing(folder):
    (folder / "captions.jsonl").unlink()


@animal("no-captions", "captions.jsonl", empty=True)
def captions_in_a_text_file_of_another_name(folder):
    (folder / "captions.jsonl").unlink()
    (folder / "images" / "all.txt").write_text("1女孩", encoding="utf-8")


@animal("bad-table", "metadata.csv", empty=True)
def captions_in_a_table_without_columns(folder):
    (folder / "captions.jsonl").rename(folder / "metadata.csv")


@animal("not-text", "captions.jsonl", empty=True)
def captions_are_a_database(folder):
    (folder / "captions.jsonl").write_bytes(b"SQLite format 3\0" + bytes(4000))


@animal("no-captions", "captions.jsonl", empty=True)
def captions_are_a_folder(folder):
    (folder / "captions.jsonl").unlink()
    (folder / "captions.jsonl").mkdir()


@animal("no-images", "images", empty=True)
def images_missing(folder):
    (folder / "images").rename(folder / "pictures")


@animal("no-samples", "captions.jsonl", empty=True)
def captions_empty(folder):
    (folder / "captions.jsonl").write_text("\n\n")


# Lines


@animal("not-json", "line 6")
def comma_at_the_end(folder):
    add_line(folder, b'{"file_name": "img_1.png", "text": "1",}')


@animal("not-json", "line 6")
def nested_without_end(folder):
    add_line(folder, b"[" * 60_000)


@animal("bad-record", "line 6")
def list_in_place_of_object(folder):
    add_line(folder, b'["img_1.png", "1"]')


@animal("bad-record", "line 6")
def no_file_name(folder):
    add_line(folder, '{"file": "img_1.png", "text": "1女孩"}'.encode())


@animal("bad-record", "line 6")
def text_is_a_number(folder):
    add_line(folder, b'{"file_name": "img_1.png", "text": 1}')


@animal("wrong-key", "line 6")
def caption_under_another_key(folder):
    (folder / "images" / "new.png").write_bytes(encode(new_picture(), "PNG"))
    add_line(folder, '{"file_name": "new.png", "caption": "1女孩, 挥手"}'.encode())


@animal("empty-caption", "line 6")
def caption_empty(folder):
    put(folder, "new.png", new_picture())
    rewrite_last(folder, b'{"file_name": "new.png", "text": "  "}')


@animal("not-utf8", "line 6")
def caption_in_gb18030(folder):
    put(folder, "new.png", new_picture())
    rewrite_last(folder, '{"file_name": "new.png", "text": "1女孩, 黄色雨衣，挥手"}'.encode("gb18030"))


@animal("not-utf8", "line 6")
def caption_in_no_encoding(folder):
    add_line(folder, b'{"file_name": "img_1.png", "text": "\x81\x8d\x8f\x90\x9d"}')


@animal("garbled", "line 6")
def caption_read_in_a_wrong_encoding(folder):
    put(folder, "new.png", new_picture())
    garbled = "1女孩, 黄色雨衣, 挥手".encode().decode("latin-1")
    rewrite_last(folder, json.dumps({"file_name": "new.png", "text": garbled}, ensure_ascii=False).encode())


@animal("invisible", "line 1")
def caption_with_a_mark_that_nobody_sees(folder):
    path = folder / "captions.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"text": "', b'"text": "\\ufeff', 1))


@animal("no-description", "line 6", mended=False)
def caption_of_numbers(folder):
    put(folder, "new.png", new_picture())
    rewrite_last(folder, json.dumps({"file_name": "new.png", "text": "0 0.5 0.5 0.1 0.1"}).encode())


@animal("lost-characters", "line 6")
def caption_of_question_marks(folder):
    put(folder, "new.png", new_picture())
    rewrite_last(folder, b'{"file_name": "new.png", "text": "1??, ????, ??"}')


@animal("long-line", "line 6")
def line_of_100_kilobytes(folder):
    add_line(folder, json.dumps({"file_name": "img_1.png", "text": "1" * 100_000}).encode())


@animal("long-line", "line 6")
def line_of_2_gigabytes(folder):
    with open(folder / "captions.jsonl", "ab") as file:
        file.truncate(2 * 1024**3)  # a hole: it takes no space on disk


@animal("second-caption", "line 6")
def two_captions(folder):
    add(folder, "img_2.png")


@animal("second-caption", "line 6")
def two_captions_by_another_spelling(folder):
    (folder / "images" / "sub").mkdir()
    add(folder, "sub/../img_2.png")


@animal("no-image", "line 6")
def caption_without_picture(folder):
    add(folder, "nowhere.png")


@animal("no-image", "line 6")
def capital_letters(folder):
    (folder / "images" / "new.png").write_bytes(encode(new_picture(), "PNG"))
    add(folder, "NEW.PNG")


@animal("no-image", "line 6")
def another_ending(folder):
    (folder / "images" / "new.png").write_bytes(encode(new_picture(), "PNG"))
    add(folder, "new.jpeg")


@animal("no-image", "line 6")
def name_with_the_folder(folder):
    (folder / "images" / "new.png").write_bytes(encode(new_picture(), "PNG"))
    add(folder, "images\\new.png")


@animal("no-anchor", "line 6", mended=False)
def no_number(folder):
    put(folder, "new.png", new_picture())
    rewrite_last(folder, '{"file_name": "new.png", "text": "女孩, 挥手"}'.encode())


@animal("same-caption", "line 6", mended=False)
def one_caption_for_two(folder):
    put(folder, "new.png", new_picture())
    put(folder, "newer.png", new_picture(10))


def rewrite_last(folder: Path, line: bytes) -> None:
    path = folder / "captions.jsonl"
    path.write_bytes(b"\n".join(path.read_bytes().splitlines()[:-1]) + b"\n" + line + b"\n")


# Paths that lead away


def secret(folder: Path) -> Path:
    path = folder.parent / "secret.png"
    new_picture(11).save(path)
    return path


@animal("outside", "line 6")
def path_upwards(folder):
    secret(folder)
    add(folder, "../../secret.png")


@animal("outside", "line 6")
def path_absolute(folder):
    add(folder, str(secret(folder)))


@animal("outside", "line 6")
def path_absolute_on_windows(folder):
    add(folder, "C:\\Users\\secret.png")


@animal("outside", "line 6")
def link_outwards(folder):
    (folder / "images" / "link.png").symlink_to(secret(folder))
    add(folder, "link.png")


@animal("no-caption", "link.png")
def link_outwards_without_caption(folder):
    (folder / "images" / "link.png").symlink_to(secret(folder))


@animal("outside", "line 6")
def linked_folder(folder):
    secret(folder)
    (folder / "images" / "sub").symlink_to(folder.parent)
    add(folder, "sub/secret.png")


@animal("outside", "captions.jsonl", empty=True)
def captions_linked_from_outside(folder):
    (folder / "captions.jsonl").rename(folder.parent / "captions.jsonl")
    (folder / "captions.jsonl").symlink_to(folder.parent / "captions.jsonl")


@animal("outside", "images", empty=True)
def images_linked_from_outside(folder):
    (folder / "images").rename(folder.parent / "pictures")
    (folder / "images").symlink_to(folder.parent / "pictures")


@animal("outside", "line 6")
def link_to_itself(folder):
    (folder / "images" / "loop.png").symlink_to(folder / "images" / "loop.png")
    add(folder, "loop.png")


@animal("no-image", "line 6")
def name_of_5000_letters(folder):
    add(folder, "n" * 5000 + ".png")


@animal("outside", "line 6")
def name_with_half_a_character(folder):
    add(folder, "\ud800\x1b[31m.png")


@animal("outside", "line 6")
def name_with_a_zero(folder):
    add(folder, "img_1.png\0")


# Files that are no pictures


@animal("unreadable", "new.png")
def file_empty(folder):
    put(folder, "new.png", b"")


@animal("unreadable", "new.jpg")
def file_is_a_web_page(folder):
    put(folder, "new.jpg", b"<!DOCTYPE html><html>404</html>")


@animal("unreadable", "new.jpg")
def file_is_a_pointer(folder):
    put(folder, "new.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@animal("unreadable", "new.png")
def file_is_noise(folder):
    put(folder, "new.png", np.random.default_rng(0).bytes(3000))


@animal("unreadable", "new.jpg")
def file_is_heic(folder):
    put(folder, "new.jpg", b"\0\0\0\x18ftypheic" + bytes(100))


@animal("unreadable", "new.png")
def file_is_postscript(folder):
    put(folder, "new.png", new_picture(), "EPS")


@animal("no-caption", "new.png")
def file_is_a_folder(folder):
    (folder / "images" / "new.png").mkdir()
    (folder / "images" / "new.png" / "inner.png").mkdir()
    (folder / "images" / "new.png" / "inner.png" / "x.png").write_bytes(b"")


@animal("unreadable", "pipe.png")
def file_is_a_pipe(folder):
    os.mkfifo(folder / "images" / "pipe.png")  # reading it would wait for ever
    add(folder, "pipe.png")


@animal("unreadable", "new.tif")
def pixels_of_32_bits(folder):
    put(folder, "new.tif", Image.fromarray(np.random.default_rng(0).random((64, 64), dtype=np.float32)), "TIFF")


@animal("unreadable", "new.png")
def checksum_wrong(folder):
    data = bytearray(encode(new_picture(), "PNG"))
    data[60] ^= 0xFF
    put(folder, "new.png", bytes(data))


def cut(format: str, name: str):
    def cut_short(folder):
        data = encode(new_picture(), format)
        put(folder, name, data[: len(data) * 2 // 3])

    cut_short.__name__ = f"cut_short_{format.lower()}"
    return cut_short


for _format, _name in (("PNG", "new.png"), ("JPEG", "new.jpg"), ("WEBP", "new.webp"), ("BMP", "new.bmp")):
    animal("truncated", _name)(cut(_format, _name))


@animal("oversized", "bomb.png")
def decompression_bomb(folder):
    rows = b"\0" * 1_000_000  # more would only take longer to make: the header alone must do
    put(folder, "bomb.png", png(60_000, 60_000, 8, 2, rows))


@animal("oversized", "huge.png")
def too_many_pixels(folder):
    put(folder, "huge.png", png(9000, 9000, 1, 0, bytes(9000 * (1 + 1125))))


@animal("oversized", "huge.webp")
def file_of_300_megabytes(folder):
    put(folder, "huge.webp", encode(new_picture(), "WEBP"))
    with open(folder / "images" / "huge.webp", "ab") as file:
        file.truncate(300 * 1024**2)


# Pictures that are not plain RGB


@animal("wrong-suffix", "new.jpg")
def png_named_jpg(folder):
    put(folder, "new.jpg", new_picture())


@animal("wrong-suffix", "new.png")
def jpeg_named_png(folder):
    put(folder, "new.png", new_picture(), "JPEG")


@animal("wrong-suffix", "new.jfif")
def ending_that_tools_do_not_know(folder):
    put(folder, "new.jfif", new_picture(), "JPEG")


@animal("wrong-suffix", "img_1.jpg")
def right_name_is_taken(folder):
    put(folder, "img_1.jpg", new_picture(14))  # img_1.png is there already


@animal("animated", "new.gif")
def animation(folder):
    put(folder, "new.gif", new_picture(), "GIF", save_all=True, append_images=[new_picture(12)])


@animal("rotated", "new.jpg")
def turned_by_exif(folder):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    put(folder, "new.jpg", new_picture(), "JPEG", exif=exif)


@animal("alpha", "new.png")
def transparent(folder):
    image = new_picture().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    put(folder, "new.png", image)


@animal("alpha", "new.png")
def transparent_palette(folder):
    put(folder, "new.png", new_picture().quantize(16), transparency=0)


@animal("grey", "new.png", mended=False)
def grey(folder):
    put(folder, "new.png", new_picture().convert("L"))


@animal("grey", "new.jpg", mended=False)
def grey_saved_as_rgb(folder):
    put(folder, "new.jpg", new_picture().convert("L").convert("RGB"), "JPEG")


@animal("alpha", "new.png")
def grey_and_transparent(folder):
    image = new_picture().convert("LA")
    image.putalpha(128)
    put(folder, "new.png", image)


@animal("cmyk", "new.jpg")
def for_print(folder):
    put(folder, "new.jpg", new_picture().convert("CMYK"), "JPEG")


@animal("deep", "new.png")
def sixteen_bit_grey(folder):
    put(folder, "new.png", Image.fromarray(np.asarray(new_picture().convert("L"), dtype=np.uint16) * 257))


@animal("deep", "new.png")
def sixteen_bit_colour(folder):
    pixels = (np.asarray(new_picture(), dtype=np.uint16) * 257).byteswap()  # (H, W, 3), big-endian
    put(folder, "new.png", png(SIZE, SIZE, 16, 2, b"".join(b"\0" + row.tobytes() for row in pixels)))


# Pictures of little use


@animal("small", "new.png", mended=False)
def small(folder):
    put(folder, "new.png", new_picture().resize((40, 40)))


@animal("small", "new.png")
def one_pixel(folder):
    put(folder, "new.png", Image.new("RGB", (1, 80)))


@animal("long-shape", "new.png", mended=False)
def banner(folder):
    put(folder, "new.png", new_picture().resize((640, 80)))


@animal("blurred", "new.png", mended=False)
def blurred(folder):
    put(folder, "new.png", new_picture().filter(ImageFilter.GaussianBlur(3)))


@animal("blank", "new.png")
def blank(folder):
    put(folder, "new.png", Image.new("RGB", (SIZE, SIZE), "white"))


@animal("duplicate", "img_1.png")
def same_file_twice(folder):
    put(folder, "new.png", picture(folder))


@animal("duplicate", "img_1.png")
def same_pixels_in_another_format(folder):
    put(folder, "new.bmp", picture(folder), "BMP")


@animal("near-duplicate", "img_1.png", mended=False)
def compressed_again(folder):
    put(folder, "new.jpg", picture(folder), "JPEG", quality=60)


@animal("near-duplicate", "img_1.png", mended=False)
def scaled(folder):
    put(folder, "new.png", picture(folder).resize((96, 96), Image.Resampling.LANCZOS))


@animal("near-duplicate", "img_1.png", mended=False)
def mirrored(folder):
    put(folder, "new.png", ImageOps.mirror(picture(folder)))


@animal("no-caption", "new.png")
def picture_without_caption(folder):
    (folder / "images" / "new.png").write_bytes(encode(new_picture(), "PNG"))


@animal("colour-space", "new.png")
def colours_of_a_wide_screen(folder):
    put(folder, "new.png", new_picture(), icc_profile=rgb_profile("Display P3", DISPLAY_P3, None))


@animal("unfollowed-colours", "new.png", mended=False)
def colours_of_a_chunk(folder):
    data = encode(new_picture(), "PNG")
    put(folder, "new.png", with_chunk(data, b"cICP", bytes([9, 16, 0, 1])))


@animal("broken-profile", "new.jpg")
def profile_cut_short(folder):
    put(folder, "new.jpg", new_picture(), "JPEG", icc_profile=rgb_profile("Display P3", DISPLAY_P3, None)[:300])


# Files that are not read


@animal("other-format", "images/new.heic")
def phone_picture(folder):
    (folder / "images" / "new.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))


@animal("elsewhere", "more/")
def pictures_in_another_folder(folder):
    (folder / "more").mkdir()
    (folder / "more" / "new.png").write_bytes(encode(new_picture(), "PNG"))


@animal("unread-captions", "metadata.jsonl")
def two_captions_files(folder):
    (folder / "metadata.jsonl").write_bytes((folder / "captions.jsonl").read_bytes())


def as_sidecars(folder: Path) -> None:
    for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        (folder / "images" / record["file_name"]).with_suffix(".txt").write_text(record["text"], encoding="utf-8")
    (folder / "captions.jsonl").unlink()


@animal("lone-caption", "images/other.txt")
def caption_file_without_picture(folder):
    as_sidecars(folder)
    (folder / "images" / "other.txt").write_text("1女孩", encoding="utf-8")


@animal("several-lines", "images/img_2.txt")
def caption_file_of_two_lines(folder):
    as_sidecars(folder)
    with open(folder / "images" / "img_2.txt", "a", encoding="utf-8") as file:
        file.write("\n五指张开\n")


@animal("no-caption", "img_2.png")
def one_caption_file_missing(folder):
    as_sidecars(folder)
    (folder / "images" / "img_2.txt").unlink()


# What only a larger set shows


def larger(folder: Path, scenes) -> None:
    for number, scene in enumerate(scenes, 100):
        put(folder, f"img_{number}.png", Image.fromarray(render(scene, SIZE).image))
        rewrite_last(folder, json.dumps({"file_name": f"img_{number}.png", "text": caption(scene)}).encode())


@animal("outlier", "stray.png", mended=False)
def another_style(folder):
    larger(folder, sample_scenes(30, seed=4))
    scene = replace(sample_scenes(1, seed=5)[0], style="水墨画", hair_color="黑色", clothes="紫色汉服")
    put(folder, "stray.png", Image.fromarray(render(scene, SIZE).image))


@animal("coverage", "captions.jsonl", mended=False)
def only_from_the_front(folder):
    larger(folder, [scene for scene in sample_scenes(40, seed=4) if scene.view == "正面"])


# A Hugging Face image folder


def as_image_folder(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        path.rename(folder / path.name)
    (folder / "images").rmdir()
    (folder / "captions.jsonl").rename(folder / "metadata.jsonl")


@animal("not-json", "metadata.jsonl, line 6")
def image_folder_with_a_broken_line(folder):
    add_line(folder, b"{")
    as_image_folder(folder)


@animal("outside", "metadata.jsonl, line 6")
def image_folder_that_reaches_out(folder):
    secret(folder)
    add(folder, "../secret.png")
    as_image_folder(folder)


# Pictures that captions speak of


def with_reference(folder: Path, reference: str, size: tuple[int, int] = (SIZE, SIZE)) -> None:
    """One more picture, with a reference, and references/before.png of a size."""
    put(folder, "after.png", Image.fromarray(render(sample_scenes(1, seed=6)[0], SIZE).image))
    line = {"file_name": "after.png", "text": "1女孩, 红色短发", "reference": reference}
    rewrite_last(folder, json.dumps(line, ensure_ascii=False).encode())
    (folder / "references").mkdir()
    picture(folder).resize(size).save(folder / "references" / "before.png")


def with_control(folder: Path, control: str, size: tuple[int, int] = (SIZE, SIZE)) -> None:
    """One more picture, with a control picture, and control/posed.png of a size."""
    put(folder, "posed.png", Image.fromarray(render(sample_scenes(1, seed=6)[0], SIZE).image))
    line = {"file_name": "posed.png", "text": "1女孩, 挥手", "control": control}
    rewrite_last(folder, json.dumps(line, ensure_ascii=False).encode())
    (folder / "control").mkdir()
    picture(folder).resize(size).save(folder / "control" / "posed.png")


@animal("no-control", "captions.jsonl, line 6")
def control_that_is_missing(folder):
    with_control(folder, "control/gone.png")


@animal("bad-control", "captions.jsonl, line 6")
def control_of_another_shape(folder):
    with_control(folder, "control/posed.png", (SIZE, 2 * SIZE))


@animal("no-reference", "captions.jsonl, line 6")
def reference_that_is_missing(folder):
    with_reference(folder, "references/gone.png")


@animal("bad-reference", "captions.jsonl, line 6")
def reference_of_itself(folder):
    with_reference(folder, "after.png")


@animal("bad-reference", "captions.jsonl, line 6")
def reference_of_less_than_a_token(folder):
    with_reference(folder, "references/before.png", (12, 40))


@animal("outside", "captions.jsonl, line 6")
def reference_that_reaches_out(folder):
    secret(folder)
    with_reference(folder, "../secret.png")


@animal("reference-size", "captions.jsonl, line 6", mended=False)
def reference_of_another_size(folder):
    with_reference(folder, "references/before.png", (SIZE, 2 * SIZE))


@animal("lone-reference", "control/nobody.png")
def control_picture_of_nobody(folder):
    as_sidecars(folder)
    (folder / "control").mkdir()
    for number in range(1, COUNT + 1):
        picture(folder, number).rotate(180).save(folder / "control" / f"img_{number}.png")
    picture(folder).rotate(90).save(folder / "control" / "nobody.png")
