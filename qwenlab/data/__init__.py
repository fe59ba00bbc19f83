"""Data sets: a folder of pictures and captions, from the files to what training reads of them.

`dataset` reads a folder, `images` one picture, `keypoints` and `regions` say where hands and feet are, `buckets`
decides sizes, splits and mirror images, `caches` keeps what the model makes of them, `check` finds and mends faults
beforehand.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "caches": ["Caches"],
        "check": ["check_dataset", "repair_dataset"],
        "dataset": ["Dataset", "read_dataset", "split_dataset"],
        "images": ["open_image"],
        "keypoints": ["Keypoints", "read_keypoints", "write_keypoints"],
        "regions": ["Region"],
    },
)
