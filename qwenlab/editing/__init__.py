"""Change a picture that is there: a region drawn again, the picture extended, all of it changed by prompt.

`masks` reads and grows masks, `pointing` makes them from a word or from keypoints. `redraw` draws a region again with
the stock inpainting pipeline and changes no pixel outside it, `soft` does so with grey masks, `extend` draws beyond the
edges. `strength` (image to image) and `flow_editing` change the whole picture without a mask, `instruct` by an
instruction, with a LoRA or a model that was trained for it.

`session` strings them together: turns on one picture, kept in a folder as a tree (`history`), each drawn with its LoRAs
and alone on the pipeline (`turns`). `page` is the same with buttons and a brush, in a notebook.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "extending": ["extend"],
        "flow_editing": ["flow_edit"],
        "instructing": ["instruct"],
        "masks": ["grow_to_tokens", "read_mask"],
        "page": ["SessionPage", "history_figure"],
        "pointing": ["joints_mask", "word_mask"],
        "redrawing": ["redraw"],
        "session": ["EditSession"],
        "soft": ["redraw_softly"],
        "strength": ["img2img", "sigma_of_strength"],
    },
)
