"""Several LoRAs as one: exact sums, compressed sums, and ways that resolve conflicts.

    fuse([Source("fox.safetensors", 0.8), Source("ink.safetensors", 0.4)], "both.safetensors", method="svd", rank=16)

`methods` holds the mathematics on the factors of one layer, `files` reads, checks and merges files, `stream` writes,
`loading` puts a fusion into a pipeline for a while, `sampling` merges while a picture is drawn.
"""

from qwenlab.lora.fusion.files import METHODS, Fusion, Source, fuse, parse_source
from qwenlab.lora.fusion.loading import fused

__all__ = ["METHODS", "Fusion", "Source", "fuse", "fused", "parse_source"]
