"""Training a LoRA by flow matching on cached latents and text embeddings.

A step draws a point on the path from a picture to noise and asks the network for the velocity there:

    x0 ~ VAE posterior,  noise ~ N(0, 1),  sigma ~ timestep sampling      (sigma: 0 = data, 1 = noise)
    loss = || transformer((1 - sigma) x0 + sigma noise, sigma, caption) - (noise - x0) ||^2

`opening` loads the model, `training_set` encodes the data, `batches` draws what a step reads, `runtime` prepares
machine and optimizer, `loop` trains, `run` keeps state and files, `held_out` measures on pictures not trained on,
`observers` and `dashboard` watch.
"""

from qwenlab.training.batches import Batch, draw_batch, draw_batches, flow_loss
from qwenlab.training.dashboard import Dashboard
from qwenlab.training.held_out import held_out_loss
from qwenlab.training.loop import TrainResult, optimize, save_previews, train_lora
from qwenlab.training.observers import Observer
from qwenlab.training.opening import open_pipeline
from qwenlab.training.runtime import usable_precision
from qwenlab.training.training_set import TrainingSet, encode_dataset

__all__ = [
    "Batch",
    "Dashboard",
    "Observer",
    "TrainResult",
    "TrainingSet",
    "draw_batch",
    "draw_batches",
    "encode_dataset",
    "flow_loss",
    "held_out_loss",
    "open_pipeline",
    "optimize",
    "save_previews",
    "train_lora",
    "usable_precision",
]
