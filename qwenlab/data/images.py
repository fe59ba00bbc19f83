"""Pictures from disk as the VAE wants them: upright sRGB with 8 bits a channel, nothing transparent; what is refused.

A picture file may come from a stranger. Only the formats of `FORMATS` are opened (others would start programs, such as
Ghostscript for EPS), and size is looked at before anything is unpacked.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from qwenlab.data.colour import Profile, profile_of, to_srgb
from qwenlab.errors import QwenlabError

#: Readable formats and the name endings that fit each, the usual one first. Phones write MPO, a JPEG with extras.
FORMATS: dict[str, tuple[str, ...]] = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "MPO": (".jpg", ".jpeg"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
}
MAX_PIXELS = 64_000_000  # 8000 x 8000; a small file can unpack to far more and fill the memory
MAX_BYTES = 256 * 1024**2  # more than MAX_PIXELS need; some decoders read the whole file first


def open_image(path: str | Path) -> Image.Image:
    """Decode a picture to RGB, turned as its EXIF says, colours as sRGB, transparency on white; raises QwenlabError."""
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise QwenlabError(f"{path}: file of more than {MAX_BYTES >> 20} MiB; scale the picture down")
        with Image.open(path, formats=known_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise QwenlabError(
                    f"{path}: {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}; scale it down"
                )
            return to_rgb(image)
    except QwenlabError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on broken files
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: Exception) -> QwenlabError:
    return QwenlabError(f"{path}: not a readable image ({type(error).__name__}: {error}); replace it")


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) in pixels of what `open_image` gives, read from the file's header; raises QwenlabError."""
    try:
        with Image.open(path, formats=known_formats()) as image:
            quarter_turn = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            # Pillow has turned the size of a TIFF already.
            return image.size[::-1] if quarter_turn and image.format != "TIFF" else image.size
    except Exception as error:  # as in open_image
        raise _unreadable(path, error) from error


def image_profile(path: str | Path) -> Profile | None:
    """The foreign or broken colour profile of a picture, from its header; raises QwenlabError."""
    try:
        with Image.open(path, formats=known_formats()) as image:
            return profile_of(image)
    except Exception as error:  # as in open_image
        raise _unreadable(path, error) from error


@lru_cache(maxsize=1)
def readable_suffixes() -> frozenset[str]:
    """The endings of files that count as pictures of a data set; a caption may name others."""
    return frozenset({ending for name in known_formats() for ending in FORMATS[name]} | {".jfif", ".jpe"})


def known_formats() -> tuple[str, ...]:
    """The formats of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn as EXIF says, scale 16 bits to 8, convert to sRGB, put transparency on white.

    Raises ValueError for 32-bit pixels. A broken profile is left aside; `profile_of` tells.
    """
    image = ImageOps.exif_transpose(image)
    profile = profile_of(image)
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255: the picture would be white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits; save the picture with 8 bits a channel")
    foreign = profile is not None and not profile.problem
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if foreign:
            alpha = image.getchannel("A")
            image = to_srgb(image.convert("RGB"), profile).convert("RGBA")
            image.putalpha(alpha)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif foreign:
        return to_srgb(image, profile)
    image = image.convert("RGB")
    if profile is not None:
        image.info.pop("icc_profile", None)  # a broken one would be saved again
    return image


def fit_image(image: Image.Image, size: tuple[int, int], fill: str = "black") -> Image.Image:
    """Letterboxing: scale to fit (width, height) without cropping or stretching (Lanczos), fill the rest."""
    return ImageOps.pad(image, size, method=Image.Resampling.LANCZOS, color=fill)
