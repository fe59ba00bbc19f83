"""qwenlab: learn to give Qwen-Image a character with LoRA, on the real classes, from a laptop CPU to the 20B model.

`load_pipeline("micro")` returns a stock `diffusers.QwenImagePipeline` with a small, really trained model;
`load_pipeline("Qwen/Qwen-Image", precision="bf16")` returns the same class with the real weights.
"""

import logging
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["load_pipeline", "__version__"]

if TYPE_CHECKING:
    from qwenlab.model.pipeline import load_pipeline

# On import bitsandbytes advises `pip install kernels`, for a product of NF4 weights on CPUs that `model.quantize`
# switches off: training through it would have no gradient.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda record: "gemm_4bit_forward" not in record.msg)


def __getattr__(name: str) -> Any:
    """Import `load_pipeline` on first use: torch and diffusers take seconds to import."""
    if name == "load_pipeline":
        from qwenlab.model.pipeline import load_pipeline

        return load_pipeline
    raise AttributeError(f"module 'qwenlab' has no attribute {name!r}")
