"""Colour profiles: what is converted to sRGB, and that everything else keeps every bit and its place in the cache."""

import hashlib
import io
import json
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from qwenlab.data.caches import latents_key
from qwenlab.data.check import Limits, check_dataset, repair_dataset
from qwenlab.data.colour import png_colours, profile_of
from qwenlab.data.dataset import View, read_dataset
from qwenlab.data.images import image_profile, open_image, readable_suffixes
from tests.data.profiles import ADOBE_RGB, DISPLAY_P3, SRGB, cmyk_profile, grey_profile, rgb_profile, srgb_to_linear
from tests.data.zoo import encode, with_chunk

ADOBE = rgb_profile("Adobe RGB (1998)", ADOBE_RGB, 563 / 256)
P3 = rgb_profile("Display P3", DISPLAY_P3, None)
OWN = {
    "by hand": rgb_profile("another name", SRGB, None),
    "of LittleCMS": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
}
BROKEN = {
    "noise": np.random.default_rng(0).bytes(500),
    "cut in its header": P3[:100],
    "cut in its tags": P3[:300],
    "of no picture": ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    "grey": grey_profile("Gray", 1.8),
}


def pixels(mode="RGB", seed=0, size=(24, 16)):
    rng = np.random.default_rng(seed)
    bands = len(Image.new(mode, (1, 1)).getbands())
    shape = (size[1], size[0], bands) if bands > 1 else (size[1], size[0])
    return Image.frombytes(mode, size, rng.integers(0, 256, shape, np.uint8).tobytes())


def by_arithmetic(colours, primaries, gamma):
    """sRGB of colours (..., 3) by the matrices themselves, out-of-range colours cut off; for a check of LittleCMS."""
    values = np.asarray(colours) / 255
    light = values**gamma if gamma else srgb_to_linear(values)
    light = np.clip(light @ primaries.T @ np.linalg.inv(SRGB).T, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(
    "profile, primaries, gamma",
    [(ADOBE, ADOBE_RGB, 563 / 256), (P3, DISPLAY_P3, None)],
    ids=["Adobe RGB", "Display P3"],
)
def test_colours_come_out_as_they_were_meant(tmp_path, profile, primaries, gamma):
    image = pixels()
    image.save(path := tmp_path / "a.png", icc_profile=profile)
    expected = by_arithmetic(np.asarray(image), primaries, gamma)
    assert np.abs(np.asarray(open_image(path)) - expected).max() <= 2
    assert np.abs(np.asarray(image) - expected).max() > 20, "the numbers alone are other colours"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_every_format_that_carries_a_profile_is_converted(tmp_path, kind):
    path = tmp_path / f"a.{kind.lower()}"
    assert path.suffix.replace("jpeg", "jpg") in readable_suffixes() or path.suffix in readable_suffixes()
    Image.new("RGB", (32, 32), (0, 200, 0)).save(path, kind, icc_profile=ADOBE, quality=95)
    plain = Image.open(path).convert("RGB").getpixel((16, 16))
    assert (
        np.abs(np.subtract(open_image(path).getpixel((16, 16)), by_arithmetic(plain, ADOBE_RGB, 563 / 256))).max() <= 2
    )
    assert image_profile(path).name == "Adobe RGB (1998)"


@pytest.mark.parametrize("profile", [None, *OWN], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
def test_srgb_keeps_every_bit(tmp_path, profile, mode):
    image = pixels("RGB").quantize(16) if mode == "P" else pixels("L").convert("1") if mode == "1" else pixels(mode)
    image.save(path := tmp_path / "a.png", icc_profile=OWN.get(profile))
    white = Image.new("RGBA", image.size, "white")
    expected = Image.alpha_composite(white, image) if mode == "RGBA" else image
    assert open_image(path).tobytes() == expected.convert("RGB").tobytes()
    assert image_profile(path) is None


def test_transparency_is_not_a_colour(tmp_path):
    image = Image.new("RGBA", (8, 8), (200, 100, 50, 255))
    image.paste((200, 100, 50, 0), (0, 0, 4, 8))
    image.save(path := tmp_path / "a.png", icc_profile=P3)
    opened = open_image(path)
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert np.abs(np.subtract(opened.getpixel((7, 0)), by_arithmetic((200, 100, 50), DISPLAY_P3, None))).max() <= 2


def test_grey_and_print_profiles(tmp_path):
    Image.new("L", (8, 8), 128).save(path := tmp_path / "a.png", icc_profile=grey_profile("Gray 1.8", 1.8))
    light = (128 / 255) ** 1.8
    assert abs(open_image(path).getpixel((0, 0))[0] - 255 * (1.055 * light ** (1 / 2.4) - 0.055)) <= 2
    inks = Image.new("CMYK", (8, 8), (0, 0, 0, 0))
    inks.paste((255, 0, 0, 0), (4, 0, 8, 8))
    inks.save(path := tmp_path / "a.tif", icc_profile=cmyk_profile("Inks"))
    paper, cyan = (open_image(path).getpixel((x, 0)) for x in (0, 7))
    assert paper == (255, 255, 255) and cyan != inks.convert("RGB").getpixel((7, 0)) and cyan[2] > cyan[0] + 100


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_profile_is_one_warning_and_the_pixels_stay(tmp_path, name):
    (tmp_path / "images").mkdir()
    image = pixels(size=(96, 96))
    image.save(path := tmp_path / "images" / "a.png", icc_profile=BROKEN[name])
    line = {"file_name": "a.png", "text": "1女孩, 挥手"}
    (tmp_path / "captions.jsonl").write_text(json.dumps(line, ensure_ascii=False), encoding="utf-8")
    assert open_image(path).tobytes() == image.tobytes() and image_profile(path).problem
    (warning,) = read_dataset(tmp_path).warnings
    assert "a.png: broken colour profile" in warning and "pixels are taken as they are" in warning
    report = check_dataset(tmp_path, Limits(min_side=64))
    assert [finding.rule for finding in report.findings] == ["broken-profile"] and report.ok


def test_a_grey_picture_with_the_profile_of_colour_srgb_is_no_fault():
    image = Image.new("L", (4, 4))
    image.info["icc_profile"] = OWN["by hand"]
    assert profile_of(image) is None


def test_training_and_check_say_what_is_converted_and_the_copy_is_plain(tmp_path):
    (tmp_path / "in" / "images").mkdir(parents=True)
    lines = []
    for number, profile in enumerate([P3, P3, ADOBE, None]):
        name = f"{number}.png"
        pixels(seed=number, size=(96, 96)).save(tmp_path / "in" / "images" / name, icc_profile=profile)
        lines.append(json.dumps({"file_name": name, "text": f"1女孩, 第{number}张"}, ensure_ascii=False))
    (tmp_path / "in" / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    dataset = read_dataset(tmp_path / "in")
    assert [warning.partition("converted to sRGB from ")[2] for warning in dataset.warnings] == [
        "Display P3: 0.png, 1.png", "Adobe RGB (1998): 2.png",
    ]  # fmt: skip
    report = check_dataset(tmp_path / "in", Limits(min_side=64))
    found = {finding.where: finding.detail for finding in report.findings if finding.rule == "colour-space"}
    assert found.keys() == {"0.png", "1.png", "2.png"} and found["2.png"] == "Adobe RGB (1998); converted to sRGB"
    out = repair_dataset(report, tmp_path / "out").folder
    for old, new in zip(dataset.samples, read_dataset(out).samples, strict=True):
        assert open_image(old.path).tobytes() == open_image(new.path).tobytes()
        assert "icc_profile" not in Image.open(new.path).info
    assert check_dataset(out, Limits(min_side=64)).findings == ()
    assert (out / "images" / "3.png").read_bytes() == (tmp_path / "in" / "images" / "3.png").read_bytes()


SRGB_PLACES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
P3_PLACES = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


@pytest.mark.parametrize(
    "chunks, said",
    [
        ({b"cICP": bytes([1, 13, 0, 1])}, ""),
        ({b"cICP": bytes([9, 16, 0, 1])}, "BT.2020, PQ (cICP)"),
        ({b"cICP": bytes([12, 13, 0, 1])}, "Display P3, sRGB's curve (cICP)"),
        ({b"cICP": bytes([1, 8, 0, 1])}, "sRGB's primaries, linear light (cICP)"),
        ({b"cICP": bytes([77, 13, 0, 1])}, "primaries 77, sRGB's curve (cICP)"),
        ({b"cICP": bytes([9, 18, 0, 1]), b"sRGB": b"\0", b"gAMA": struct.pack(">I", 45455)}, "BT.2020, HLG (cICP)"),
        ({b"gAMA": struct.pack(">I", 45455)}, ""),
        ({b"gAMA": struct.pack(">I", 45000)}, ""),
        ({b"gAMA": struct.pack(">I", 100_000)}, "gamma 1 (gAMA)"),
        ({b"gAMA": struct.pack(">I", 55_556)}, "gamma 0.55556 (gAMA)"),
        ({b"gAMA": struct.pack(">I", 100_000), b"sRGB": b"\0"}, ""),
        ({b"gAMA": struct.pack(">I", 45455), b"cHRM": struct.pack(">8I", *SRGB_PLACES)}, ""),
        ({b"cHRM": struct.pack(">8I", *P3_PLACES)}, "other primaries than sRGB (cHRM)"),
        ({b"cICP": b"\x09"}, ""),  # too short to say anything
        ({b"tEXt": b"Comment\0" + bytes(5000), b"gAMA": struct.pack(">I", 100_000)}, "gamma 1 (gAMA)"),
    ],
)
def test_what_a_png_says_of_its_colours_without_a_profile(tmp_path, chunks, said):
    folder = tmp_path / "in"
    (folder / "images").mkdir(parents=True)
    image = pixels(size=(96, 96))
    data = encode(image, "PNG")
    for kind, content in chunks.items():
        data = with_chunk(data, kind, content)
    (path := folder / "images" / "a.png").write_bytes(data)
    (folder / "captions.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "1女孩, 挥手"}), "utf-8")
    assert png_colours(path) == said and open_image(path).tobytes() == image.tobytes()
    warnings = read_dataset(folder).warnings
    found = [f.detail for f in check_dataset(folder, Limits(min_side=64)).findings if f.rule == "unfollowed-colours"]
    assert len(warnings) == len(found) == bool(said)
    if said:
        assert f"{said} is not followed" in warnings[0] and warnings[0].endswith("with a colour profile: a.png")
        assert found == [f"{said}; taken as sRGB"]
    image.save(path, icc_profile=OWN["by hand"])
    path.write_bytes(with_chunk(path.read_bytes(), b"gAMA", struct.pack(">I", 100_000)))
    assert png_colours(path) == "", "a profile outranks gAMA"
    image.save(path := tmp_path / "a.jpg")
    assert png_colours(path) == ""


def test_the_cache_keeps_what_it_has_but_for_converted_pictures(tmp_path):
    keys = {}
    for name, profile in {"none": None, "own": OWN["by hand"], "broken": BROKEN["noise"], "P3": P3}.items():
        pixels().save(path := tmp_path / f"{name}.png", icc_profile=profile)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        earlier = "\0".join(("1", "latents", "vae", digest, "32x32", "False", "False"))  # before profiles were read
        keys[name] = latents_key(View(path, (32, 32)), "vae"), hashlib.sha256(earlier.encode()).hexdigest()[:32]
    assert [name for name, (key, earlier) in keys.items() if key != earlier] == ["P3"]


def test_profiles_by_hand_are_what_littlecms_reads():
    for name, profile in {"Adobe RGB (1998)": ADOBE, "Display P3": P3, "Inks": cmyk_profile("Inks")}.items():
        opened = ImageCms.getOpenProfile(io.BytesIO(profile))
        assert ImageCms.getProfileDescription(opened).strip() == name
