"""Hands and feet: why they go wrong, and what repairs them.

`diagnosis` asks when in the denoising a hand is decided. `close_ups` cuts training pictures, `captions` names what they
show, `structure` is a loss on joints (read by `openpose` on real pictures, by `pose_net` in the drawn world),
`training` hands both to the loop. `repairing` detects and inpaints, with `squares` turned upright; for the drawn world
`finder` finds and `form_net` chooses.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "close_ups": ["write_close_ups"],
        "finder": ["find_regions", "load_finder"],
        "repairing": ["draw_until_well_formed", "repair"],
        "structure": ["StructureLoss"],
        "training": ["hand_options", "structure_schedule"],
    },
)
