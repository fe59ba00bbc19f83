"""Training a LoRA, or a ControlNet, by flow matching on cached latents and text embeddings.

A step draws a point on the path from a picture to noise and asks the network for the velocity there:

    x0 ~ VAE posterior,  noise ~ N(0, 1),  sigma ~ timestep sampling      (sigma: 0 = data, 1 = noise)
    loss = || transformer((1 - sigma) x0 + sigma noise, sigma, caption) - (noise - x0) ||^2

`opening` loads the model, `training_set` encodes the data, `batches` draws what a step reads, `runtime` prepares
machine and optimizer, `trained` makes what is trained, `loop` trains, `run` keeps state and files, `watching` draws
previews and measures between steps, `held_out` measures on pictures not trained on, `observers` and `dashboard` watch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "batches": ["Batch", "draw_batch", "draw_batches", "flow_loss"],
        "dashboard": ["Dashboard"],
        "held_out": ["held_out_loss"],
        "loop": ["TrainResult", "optimize", "train_lora"],
        "observers": ["Observer"],
        "opening": ["open_pipeline"],
        "runtime": ["usable_precision"],
        "training_set": ["TrainingSet", "encode_dataset"],
        "watching": ["save_previews"],
    },
)
