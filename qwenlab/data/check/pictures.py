"""One picture file, opened once: what is wrong with it, and the few numbers that all comparisons need.

A picture is decoded, reduced to at most 512 pixels, measured, and forgotten; memory does not grow with the data set
beyond the 1 KB of `Picture` (and a thumbnail of 4 KB, if wanted).
"""

import hashlib
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from qwenlab.data.colour import png_colours, profile_of
from qwenlab.data.findings import Finding, shown
from qwenlab.data.images import FORMATS, MAX_BYTES, MAX_PIXELS, known_formats, to_rgb

SIDE = 512  # pixels of the longer side at which sharpness is measured
BLANK = 3.0  # standard deviation in levels of 255, below which a picture is blank
GREY = 2.0  # mean difference of the channels in levels; JPEG makes up to 1 in a grey picture
_HASH_ROWS = 256
_ORIENTATION = 0x0112
_REWRITTEN = ("animated", "rotated", "deep", "alpha", "colour-space", "broken-profile")
#: What else lies in files that are named like pictures, by their first bytes.
_IMPOSTORS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the picture: run git lfs pull"),
    (b"<!doctype html", "a web page saved in place of the picture"),
    (b"<html", "a web page saved in place of the picture"),
    (b"<?xml", "XML, perhaps SVG: export it as PNG"),
    (b"<svg", "SVG: export it as PNG"),
    (b"%pdf", "PDF: export it as PNG"),
    (b"8bps", "a Photoshop file: export it as PNG"),
    (b"\xff\x0a", "JPEG XL: export it as PNG"),
    (b"\0\0\0\x0cjxl ", "JPEG XL: export it as PNG"),
    (b"\0\0\0\x0cjp  ", "JPEG 2000: export it as PNG"),
    (b"%!ps", "PostScript: export it as PNG"),
)


@dataclass(frozen=True)
class Limits:
    """Thresholds of the check. Where they come from: `benchmarks/data/check_rates.py`."""

    min_side: int = 512  # pixels of the shorter side
    max_aspect: float = 3.0  # longer side / shorter side
    min_sharpness: float = 40.0  # variance of the Laplacian, levels of 255 squared, at 512 pixels
    sharpness_share: float = 1 / 6  # of the data set's median sharpness
    near_bits: int = 4  # of the 64 of a perceptual hash
    outlier_score: float = 6.0  # robust z-score; the usual 3.5 reports odd but good pictures


@dataclass(frozen=True)
class Picture:
    """What is kept of a picture. Sizes in pixels, after turning it as EXIF says."""

    path: Path
    name: str  # relative to the folder of pictures, with /
    format: str
    width: int
    height: int
    rewrite: bool  # it must be decoded and written anew to be plain RGB
    digest: bytes  # of the RGB pixels: equal for equal pictures in different files
    blank: bool
    grey: bool
    sharpness: float
    hashes: tuple[int, int]  # perceptual hashes, 64 bits each, of the picture and of its mirror image
    features: np.ndarray  # (80,) float32, see `colour_and_edges`
    thumbnail: bytes | None  # JPEG, at most 128 pixels


def inspect_picture(
    path: Path, name: str, limits: Limits, thumbnail: bool = False
) -> tuple[Picture | None, list[Finding]]:
    """Open and measure one file; None for a picture that cannot be used. Never raises for what the file holds."""

    def stop(rule: str, detail: str) -> tuple[None, list[Finding]]:
        return None, [Finding(rule, name, detail, (name,), drops=(name,))]

    try:
        if not os.path.isfile(path):
            return stop("unreadable", "no regular file")
        size = path.stat().st_size
        if size > MAX_BYTES:
            return stop("oversized", f"file of {size / 1024**2:,.0f} MiB; at most {MAX_BYTES >> 20} are read")
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        return stop("unreadable", error.strerror or type(error).__name__)
    found: list[Finding] = []
    opened = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures and odd EXIF; both are looked at here
            with Image.open(path, formats=known_formats()) as image:
                opened = True
                if image.width * image.height > MAX_PIXELS:
                    return stop("oversized", f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
                image.load()
                found = [Finding(rule, name, detail, (name,)) for rule, detail in _properties(image, path, head)]
                rewrite = image.mode != "RGB" or any(f.rule in _REWRITTEN for f in found)
                kind, rgb = image.format, to_rgb(image)
    except Image.DecompressionBombError:
        return stop("oversized", f"{size:,} bytes that unpack to more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels")
    except Exception as error:  # Pillow's decoders raise almost anything on broken files
        rule, detail = _why_unreadable(error, head, size, opened)
        return stop(rule, detail)
    picture = _measure(rgb, path, name, kind, rewrite, thumbnail)
    return picture, found + _shape_findings(picture, limits)


def _properties(image: ImageFile.ImageFile, path: Path, head: bytes) -> list[tuple[str, str]]:
    """(rule, detail) of everything in a readable file that is not plain upright RGB under the right name."""
    found = []
    endings = FORMATS[image.format]
    if path.suffix.lower() not in endings:
        found.append(("wrong-suffix", f"holds {image.format}, so its name should end in {endings[0]}"))
    if getattr(image, "is_animated", False) and image.format != "MPO":
        found.append(("animated", f"{image.n_frames} frames"))
    turned = image.getexif().get(_ORIENTATION, 1)
    if turned in range(2, 9):
        found.append(("rotated", f"EXIF orientation {turned}"))
    if image.has_transparency_data:
        lowest = image.convert("RGBA").getchannel("A").getextrema()[0]
        if lowest < 255:
            found.append(("alpha", "fully transparent places" if lowest == 0 else "half-transparent places"))
    if profile := profile_of(image):
        name = shown(profile.name) or "a profile"
        broken = ("broken-profile", f"{name}: {profile.problem}")
        found.append(broken if profile.problem else ("colour-space", f"{name}; converted to sRGB"))
    if said := png_colours(path):
        found.append(("unfollowed-colours", f"{said}; taken as sRGB"))
    if image.mode == "CMYK":
        found.append(("cmyk", "four inks in place of red, green and blue"))
    png_depth = head[24] if head.startswith(b"\x89PNG") and len(head) > 24 else 8
    if image.mode.startswith("I;16") or png_depth > 8:
        found.append(("deep", "16 bits a channel"))
    return found


def _why_unreadable(error: Exception, head: bytes, size: int, opened: bool) -> tuple[str, str]:
    if size == 0:
        return "unreadable", "an empty file"
    for start, what in _IMPOSTORS:
        if head.lower().startswith(start):
            return "unreadable", what
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"hevc"):
        return "unreadable", "HEIC, as phones store it: export it as JPEG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP" and int.from_bytes(head[4:8], "little") + 8 > size:
        return "truncated", f"{size:,} bytes of {int.from_bytes(head[4:8], 'little') + 8:,}"
    if opened and "truncated" in str(error).lower():
        return "truncated", f"only {size:,} bytes are here"
    if type(error).__name__ == "UnidentifiedImageError":
        return "unreadable", "no picture in a format known here"
    return "unreadable", f"damaged ({type(error).__name__})"


def _measure(rgb: Image.Image, path: Path, name: str, kind: str, rewrite: bool, thumbnail: bool) -> Picture:
    small = reduced(rgb, SIDE)
    channels = [np.asarray(channel, dtype=np.int16) for channel in reduced(small, 128).split()]  # 3 x (H, W)
    spread = np.maximum.reduce(channels) - np.minimum.reduce(channels)
    return Picture(
        path=path,
        name=name,
        format=kind,
        width=rgb.width,
        height=rgb.height,
        rewrite=rewrite,
        digest=_pixel_digest(rgb),
        blank=max(float(channel.std()) for channel in channels) < BLANK,
        grey=float(spread.mean()) < GREY,
        sharpness=sharpness(small),
        hashes=perceptual_hashes(small),
        features=colour_and_edges(small),
        thumbnail=_thumbnail(small) if thumbnail else None,
    )


def _shape_findings(picture: Picture, limits: Limits) -> list[Finding]:
    found = []
    shorter, longer = sorted((picture.width, picture.height))
    if picture.blank:
        found.append(("blank", "one colour", (picture.name,)))
    elif picture.grey:
        found.append(("grey", "red, green and blue are equal everywhere", ()))
    if shorter < limits.min_side:
        found.append(("small", f"{picture.width} x {picture.height} pixels; the check asks for {limits.min_side}", ()))
    if longer > limits.max_aspect * shorter:
        found.append(("long-shape", f"{picture.width} x {picture.height} pixels, {longer / shorter:.1f} to 1", ()))
    return [Finding(rule, picture.name, detail, (picture.name,), drops) for rule, detail, drops in found]


def reduced(image: Image.Image, side: int) -> Image.Image:
    """The picture with its longer side at most `side` pixels (box filter), at least 1 pixel each way."""
    scale = side / max(image.size)
    if scale >= 1:
        return image
    size = tuple(max(1, round(length * scale)) for length in image.size)
    return image.resize(size, Image.Resampling.BOX, reducing_gap=1.0)


def sharpness(image: Image.Image) -> float:
    """Variance of the Laplacian of the grey picture, in levels of 255 squared: small when there is no edge.

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy" (ICPR 2000). It depends on the scale, so
    it is only compared between pictures reduced to 512 pixels; a picture smaller than that seems sharper.
    """
    grey = np.asarray(image.convert("L"), dtype=np.float32)  # (H, W)
    if min(grey.shape) < 3:
        return 0.0
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * grey[1:-1, 1:-1]).var())


def perceptual_hashes(image: Image.Image) -> tuple[int, int]:
    """The 64-bit pHash of a picture and of its mirror image: the signs of its 8 x 8 slowest cosine waves."""
    import imagehash  # loads scipy

    both = (image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    return tuple(int.from_bytes(np.packbits(imagehash.phash(each).hash).tobytes(), "big") for each in both)


def colour_and_edges(image: Image.Image) -> np.ndarray:
    """(80,) float32: square roots of shares, 64 colours (4 x 4 x 4) and 16 strengths of edges, at 128 x 128 pixels.

    The root makes the Euclidean distance of two such vectors their Hellinger distance (times the root of 2).
    """
    square = image.resize((128, 128), Image.Resampling.BOX)
    rgb = np.asarray(square, dtype=np.int32) // 64  # (128, 128, 3)
    colours = np.bincount((rgb @ [16, 4, 1]).ravel(), minlength=64)
    grey = np.asarray(square.convert("L"), dtype=np.float32)
    steps = np.abs(np.diff(grey, axis=1))[:-1] + np.abs(np.diff(grey, axis=0))[:, :-1]
    edges = np.histogram(np.log2(1 + steps), bins=16, range=(0, 9))[0]
    return np.sqrt(np.concatenate([colours / colours.sum(), edges / edges.sum()])).astype(np.float32)


def _pixel_digest(image: Image.Image) -> bytes:
    digest = hashlib.blake2b(f"{image.size}".encode(), digest_size=16)
    for top in range(0, image.height, _HASH_ROWS):  # in strips: no second copy of a large picture
        digest.update(image.crop((0, top, image.width, min(top + _HASH_ROWS, image.height))).tobytes())
    return digest.digest()


def _thumbnail(small: Image.Image) -> bytes:
    buffer = io.BytesIO()
    reduced(small, 128).save(buffer, "JPEG", quality=75)
    return buffer.getvalue()
