"""What a training step needs, in bytes and operations: predicted, simulated, measured.

`settings` says what is asked; `formula` and `flops` count, `phases` the parts beside the transformer; `step` makes the
step, `simulate` executes it on fake tensors and `measure` on real ones, watched by `live_bytes`; `plan` and `cards`
choose, `command` answers `qwenlab memory`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cards": ["Card", "find_card"],
        "formula": ["predict_step"],
        "measure": ["measure_step"],
        "settings": ["StepSettings"],
        "simulate": ["simulate_step"],
    },
)
