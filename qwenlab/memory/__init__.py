"""What a training step needs, in bytes and operations: predicted, simulated, measured.

`settings` says what is asked; `formula` and `flops` count, `phases` the parts beside the transformer; `step` makes the
step, `simulate` executes it on fake tensors and `measure` on real ones, watched by `live_bytes`; `plan` and `cards`
choose, `command` answers `qwenlab memory`.
"""
