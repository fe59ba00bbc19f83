"""The model: what Qwen-Image is and how it draws, at both scales. Nothing here knows of training, LoRA or data sets.

`pipeline` loads it and `generation` draws; `mmdit` is the transformer from the ground up, `flow` its arithmetic of
noise, `encoding` brings one picture and one caption into it, `references` and `controlled` further pictures, the latter
through the net of `controlnet`. `vae2d`, `quantize`, `modulation` and `attention_backends` make it smaller or faster,
`attention_maps` shows what words look at, `micro_weights` says where the micro model lies.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "controlled": ["generate_controlled"],
        "controlnet": ["load_controlnet", "make_controlnet"],
        "encoding": ["encode_image", "encode_text"],
        "generation": ["generate", "native_size"],
        "pipeline": ["load_pipeline"],
        "quantize": ["quantise"],
        "vae2d": ["fold_causal_vae"],
    },
)
