"""Colour profiles (ICC.1, version 2) made by hand, small and of known content, to embed in test pictures."""

import struct

import numpy as np

#: XYZ of red, green and blue (columns), adapted to D50, as the profiles of these names hold them.
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
_WHITE = (0.9642, 1.0, 0.8249)


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_fixed, values))


def _curve(gamma: float | None) -> bytes:
    """A power curve; None: sRGB's own, as a table of 1,024 values."""
    if gamma is not None:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    table = [round(65535 * srgb_to_linear(step / 1023)) for step in range(1024)]
    return b"curv\0\0\0\0" + struct.pack(">I1024H", 1024, *table)


def srgb_to_linear(value):
    """sRGB's transfer curve, of numbers or arrays between 0 and 1."""
    return np.where(
        np.asarray(value) <= 0.04045, np.asarray(value) / 12.92, ((np.asarray(value) + 0.055) / 1.055) ** 2.4
    )


def _text(kind: bytes, text: str) -> bytes:
    data = text.encode("ascii") + b"\0"
    if kind == b"text":
        return b"text\0\0\0\0" + data
    return b"desc\0\0\0\0" + struct.pack(">I", len(data)) + data + bytes(8 + 3 + 67)


def _profile(space: bytes, device: bytes, tags: dict[bytes, bytes], connection: bytes = b"XYZ ") -> bytes:
    offset, table, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    date = struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
    header = struct.pack(">I4sI4s4s4s", offset + len(body), b"test", 0x02400000, device, space, connection)
    header += date + b"acsp" + bytes(28) + b"".join(map(_fixed, _WHITE)) + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + body


def rgb_profile(name: str, primaries: np.ndarray, gamma: float | None) -> bytes:
    """A matrix profile of a screen."""
    tags = {b"desc": _text(b"desc", name), b"cprt": _text(b"text", "none"), b"wtpt": _xyz(_WHITE)}
    tags |= {channel + b"XYZ": _xyz(primaries[:, index]) for index, channel in enumerate((b"r", b"g", b"b"))}
    tags |= {channel + b"TRC": _curve(gamma) for channel in (b"r", b"g", b"b")}
    return _profile(b"RGB ", b"mntr", tags)


def grey_profile(name: str, gamma: float | None) -> bytes:
    """A profile of grey pictures."""
    tags = {b"desc": _text(b"desc", name), b"cprt": _text(b"text", "none"), b"wtpt": _xyz(_WHITE)}
    return _profile(b"GRAY", b"mntr", tags | {b"kTRC": _curve(gamma)})


def cmyk_profile(name: str) -> bytes:
    """A profile of four inks: no ink is white, and each ink darkens; a table of 2 x 2 x 2 x 2 colours in CIE Lab."""
    nodes = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    table = b""
    for c, m, y, k in nodes:
        light = 100 * (1 - 0.35 * c) * (1 - 0.45 * m) * (1 - 0.08 * y) * (1 - 0.9 * k)
        a, b = (-35 * c + 70 * m - 5 * y) * (1 - k), (-50 * c - 5 * m + 90 * y) * (1 - k)
        table += bytes([round(light * 2.55), round(128 + a), round(128 + b)])
    ramp = bytes(range(256))
    matrix = b"".join(map(_fixed, (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + table + ramp * 3
    tags = {b"desc": _text(b"desc", name), b"cprt": _text(b"text", "none"), b"wtpt": _xyz(_WHITE)}
    tags |= {b"A2B0": lut, b"A2B1": lut}
    return _profile(b"CMYK", b"prtr", tags, b"Lab ")
