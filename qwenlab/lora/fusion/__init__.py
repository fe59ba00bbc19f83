"""Several LoRAs as one: exact sums, compressed sums, and ways that resolve conflicts.

    fuse([Source("fox.safetensors", 0.8), Source("ink.safetensors", 0.4)], "both.safetensors", method="svd", rank=16)

`sources` names files and weights, `methods` holds the mathematics on the factors of one layer, `files` reads, checks
and merges files, `stream` writes, `loading` puts a fusion into a pipeline for a while, `sampling` merges while a
picture is drawn.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "files": ["METHODS", "Fusion", "fuse"],
        "loading": ["fused"],
        "sources": ["Source", "parse_source"],
    },
)
