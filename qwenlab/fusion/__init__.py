"""Several LoRAs as one: exact sums, compressed sums, and ways that resolve conflicts.

    fuse([Source("fox.safetensors", 0.8), Source("ink.safetensors", 0.4)], "both.safetensors", method="svd", rank=16)

`methods` holds the mathematics on the factors of one layer, `files` reads, checks and merges files, `stream` writes.
"""

from qwenlab.fusion.files import METHODS, Fusion, Source, fuse, parse_source

__all__ = ["METHODS", "Fusion", "Source", "fuse", "parse_source"]
