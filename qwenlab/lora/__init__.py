"""LoRA: the layer and everything that happens to its factors and files.

`layers` is the layer itself, `targets` says which layers of Qwen-Image get one, `io` saves and loads the LoRA of a
pipeline, `files` is the doctor of files from any trainer, `rank` and `resizing` change ranks, `fusion` makes one of
several.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "files": ["diagnose"],
        "fusion": ["Source", "fuse", "fused"],
        "io": ["load_lora", "remove_lora", "save_lora"],
        "layers": ["LoRALinear", "inject_lora", "lora_layers", "merge_lora"],
        "resizing": ["resize"],
        "targets": ["target_modules"],
    },
)
