"""Colours as sRGB: what an embedded profile says is followed, so that the model learns the colours a person sees.

Adobe RGB and Display P3 write the same numbers for other colours. A picture with such a profile is converted with
LittleCMS (PIL.ImageCms), relative colorimetric with black point compensation, as browsers do it: colours that sRGB
holds stay exact, the others become the nearest ones, and white and black stay white and black. A picture without a
profile is sRGB, as on the web; it and one whose profile is sRGB keep every bit. What a PNG says of its colours without
a profile (cICP, gAMA, cHRM) is told and not followed: PIL.ImageCms makes no profile of such numbers.
"""

from __future__ import annotations

import io
import struct
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

CONVERSION = "sRGB 1"  # part of the cache key of converted pictures; raise it when they come out otherwise
_SAME = 3  # levels of 255 that a profile may differ from sRGB by: small ones round
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_NAMES = {"RGB": "colour", "L": "grey", "CMYK": "CMYK"}
_CICP_PRIMARIES = {1: "sRGB's primaries", 9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}  # ITU-T H.273, table 2
_CICP_CURVES = {1: "BT.709's curve", 8: "linear light", 13: "sRGB's curve", 16: "PQ", 18: "HLG"}  # table 3
_CICP_SRGB = (1, 13)
_SRGB_CHROMATICITIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # x, y of white, red, green, blue
_NEAR = 0.01  # libpng counts chromaticities as equal up to here
_GAMMA, _NEAR_GAMMA = 1 / 2.2, 0.05  # and a gamma up to this share of it


class Profile(NamedTuple):
    """What an embedded profile says. problem: why it cannot be followed, "" when it can. transform: to sRGB, and None
    for a profile that is sRGB already."""

    name: str
    mode: str
    problem: str = ""
    transform: ImageCms.ImageCmsTransform | None = None


def profile_of(image: Image.Image) -> Profile | None:
    """The profile by which a picture is converted or which is broken; None without one, and for sRGB."""
    data = image.info.get("icc_profile")
    if not data:
        return None
    profile = _read_profile(bytes(data))
    mode = _base_mode(image)
    if not profile.problem and profile.transform and profile.mode != mode:
        problem = f"it is for {_NAMES[profile.mode]} pictures, and this one is {_NAMES.get(mode, mode)}"
        return profile._replace(problem=problem, transform=None)
    return profile if profile.problem or profile.transform else None


def to_srgb(image: Image.Image, profile: Profile) -> Image.Image:
    """An RGB picture in sRGB from one in a mode of its profile, without transparency."""
    image = image if image.mode == profile.mode else image.convert(profile.mode)
    image = ImageCms.applyTransform(image, profile.transform)
    image.info.pop("icc_profile", None)  # LittleCMS writes the time into it, so that no two files would be equal
    return image


def png_colours(path: str | Path) -> str:
    """The colours that a PNG without a profile says it has, where they are not sRGB: "Display P3, sRGB's curve (cICP)".

    "" for sRGB, for a file with a profile, for one that says nothing and for other formats. The chunks outrank each
    other as in the PNG specification (W3C, third edition, 4.3): cICP, iCCP, sRGB, gAMA with cHRM. Raises OSError.
    """
    chunks = _png_chunks(Path(path))
    if b"iCCP" in chunks:
        return ""
    if len(cicp := chunks.get(b"cICP", b"")) == 4:
        primaries, curve = cicp[:2]
        if (primaries, curve) == _CICP_SRGB:
            return ""
        names = _CICP_PRIMARIES.get(primaries, f"primaries {primaries}"), _CICP_CURVES.get(curve, f"curve {curve}")
        return f"{names[0]}, {names[1]} (cICP)"
    if b"sRGB" in chunks:
        return ""
    found = []
    if len(data := chunks.get(b"gAMA", b"")) == 4:
        gamma = struct.unpack(">I", data)[0] / 100_000
        found += [f"gamma {gamma:g} (gAMA)"] if abs(gamma / _GAMMA - 1) > _NEAR_GAMMA else []
    if len(data := chunks.get(b"cHRM", b"")) == 32:
        places = np.array(struct.unpack(">8I", data)) / 100_000
        far = np.abs(places - _SRGB_CHROMATICITIES).max() > _NEAR
        found += ["other primaries than sRGB (cHRM)"] if far else []
    return ", ".join(found)


def _png_chunks(path: Path) -> dict[bytes, bytes]:
    """The short chunks of a PNG before its pixels, the first of each kind; empty for other files."""
    chunks: dict[bytes, bytes] = {}
    with open(path, "rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            return chunks
        while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
            length = int.from_bytes(head[:4], "big")
            data = file.read(length) if length <= 32 else b""  # the chunks with colours have at most 32 bytes
            file.seek(length - len(data) + 4, 1)  # the rest, and the checksum
            chunks.setdefault(head[4:], data)
    return chunks


def _base_mode(image: Image.Image) -> str:
    """The mode in which a picture's colours are, without transparency: "RGB", "L" or "CMYK"."""
    if image.mode in ("L", "LA", "La", "1") or image.mode.startswith("I;16"):
        return "L"
    return "CMYK" if image.mode == "CMYK" else "RGB"


@lru_cache(maxsize=16)  # a set's pictures share a few profiles
def _read_profile(data: bytes) -> Profile:
    try:
        opened = ImageCms.getOpenProfile(io.BytesIO(data))
        name = " ".join((ImageCms.getProfileDescription(opened) or "without a name").split())
        mode = _MODES.get(opened.profile.xcolor_space)
        if mode is None:
            return Profile(name, "RGB", f"it is for {opened.profile.xcolor_space.strip()}")
        transform = ImageCms.buildTransform(
            opened, ImageCms.createProfile("sRGB"), mode, "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
        return Profile(name, mode, "", None if _is_srgb(transform, mode) else transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        return Profile("", "RGB", f"it cannot be read ({' '.join(str(error).split()) or type(error).__name__})")


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform leaves every colour as it is, but for rounding."""
    if mode == "CMYK":
        return False
    if mode == "L":
        levels = np.arange(256, dtype=np.uint8)[None]  # (1, 256)
        before = np.repeat(levels[..., None], 3, axis=2)
    else:
        steps = np.linspace(0, 255, 16).round().astype(np.uint8)
        before = levels = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)  # (1, 4096, 3)
    after = np.asarray(ImageCms.applyTransform(Image.fromarray(levels), transform))
    return int(np.abs(after.astype(int) - before.astype(int)).max()) <= _SAME
