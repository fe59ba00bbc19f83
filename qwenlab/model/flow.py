"""Flow matching as Qwen-Image does it: straight paths from data to noise, and the sigmas that walk them.

Direction of time: sigma = 0 is data, sigma = 1 is pure noise. The network sees sigma as its `timestep` and
predicts the velocity `noise - x0`. Conventions are those of diffusers' `QwenImagePipeline` and
`FlowMatchEulerDiscreteScheduler`, so that training and inference meet.

Sources: Lipman et al., Flow Matching (arXiv 2210.02747); Liu et al., Rectified Flow (arXiv 2209.03003);
Esser et al., Stable Diffusion 3 (arXiv 2403.03206) for logit-normal timesteps and the resolution shift.

B batch, S image tokens, C channels of a token; `...` any shape behind the batch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

SIGMA_SAMPLING = ("uniform", "logit_normal", "shifted")


def _over_batch(sigma: Tensor, like: Tensor) -> Tensor:
    """Give `sigma` of shape (B,) as many trailing axes as `like` has: (B, 1, ..., 1)."""
    return sigma.to(like).reshape(-1, *([1] * (like.ndim - 1)))


def interpolate(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The point at `sigma` on the straight line from data to noise: `(1 - sigma) x0 + sigma noise`.

    Args: `x0` and `noise` (B, ...), `sigma` (B,) in [0, 1]. Returns x_t (B, ...), dtype of `x0`.
    """
    sigma = _over_batch(sigma, x0)
    return (1 - sigma) * x0 + sigma * noise


def velocity(x0: Tensor, noise: Tensor) -> Tensor:
    """What the network learns to predict: dx_t / dsigma = `noise - x0` at every sigma. Shapes (B, ...)."""
    return noise - x0


def predict_x0(x_t: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
    """The clean data that a velocity points back to: `x_t - sigma v`. Its error is sigma times that of `v`.

    Args: `x_t`, `v` (B, ...), `sigma` (B,) in [0, 1]. Returns (B, ...).
    """
    return x_t - _over_batch(sigma, x_t) * v


def model_timestep(sigma: Tensor, dtype: torch.dtype) -> Tensor:
    """The timestep that a model of this dtype receives at `sigma` (any shape): as the stock pipeline rounds it.

    The pipeline counts in thousandths, rounds to the latents' dtype and divides. In bfloat16 a quarter of the values
    differ from sigma rounded directly. In float32 sigma itself is passed on.
    """
    return sigma if dtype == torch.float32 else (sigma * 1000).to(dtype) / 1000


def to_grid(sigma: Tensor, count: int) -> Tensor:
    """`sigma` (any shape, in [0, 1]) moved to the nearest of 1 / count, 2 / count, ..., 1."""
    return (sigma * count).round().clamp(1, count) / count


def mu_for_tokens(image_seq_len: int, scheduler_config: Mapping[str, Any]) -> float:
    """The shift exponent `mu` for a picture of `image_seq_len` packed tokens: a straight line in the count.

    Larger pictures keep more structure at the same sigma, so their sigmas are pushed towards noise. The
    fallback numbers are the pipeline's. For Qwen-Image (256..8192 tokens, .5 to .9) e^mu is 2.00 at 1024².
    """
    base_len = scheduler_config.get("base_image_seq_len", 256)
    max_len = scheduler_config.get("max_image_seq_len", 4096)
    base_shift = scheduler_config.get("base_shift", 0.5)
    max_shift = scheduler_config.get("max_shift", 1.15)
    slope = (max_shift - base_shift) / (max_len - base_len)
    return base_shift + slope * (image_seq_len - base_len)


def shift_sigma(sigma: Tensor, mu: float) -> Tensor:
    """Exponential time shift, any shape: the odds sigma / (1 - sigma) are multiplied by e^mu."""
    scale = math.exp(mu)
    return scale * sigma / (1 + (scale - 1) * sigma)


def inference_sigmas(steps: int, image_seq_len: int, scheduler_config: Mapping[str, Any]) -> Tensor:
    """The sigmas that the stock pipeline visits: (steps + 1,) float32 from 1 down to the final 0.

    `scheduler_config` is `pipeline.scheduler.config`. Without dynamic shifting the scheduler's constant
    `shift` is used; with `shift_terminal` the list is stretched so that its last non-zero entry equals it.
    """
    sigmas = torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64)
    sigmas = shift_sigma(sigmas, _mu(image_seq_len, scheduler_config))
    terminal = scheduler_config.get("shift_terminal")
    if terminal:
        sigmas = 1 - (1 - sigmas) * (1 - terminal) / (1 - sigmas[-1])
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()


def _mu(image_seq_len: int, scheduler_config: Mapping[str, Any]) -> float:
    if scheduler_config.get("use_dynamic_shifting", False):
        return mu_for_tokens(image_seq_len, scheduler_config)
    return math.log(scheduler_config.get("shift", 1.0))


def sample_sigmas(
    count: int,
    generator: torch.Generator,
    method: str = "logit_normal",
    *,
    image_seq_len: int | None = None,
    scheduler_config: Mapping[str, Any] | None = None,
) -> Tensor:
    """Draw training sigmas, (count,) float32 on the CPU, from `generator` (a CPU generator) alone.

    - "uniform": every sigma equally often.
    - "logit_normal": sigmoid of a standard normal; the middle of the path most often (Stable Diffusion 3).
    - "shifted": as at inference: uniform, then the scheduler's shift for `image_seq_len` tokens and its
      stretch to `shift_terminal`, in the limit of many steps. Needs `image_seq_len` and `scheduler_config`.

    Raises ValueError for another method or missing arguments.
    """
    if method == "logit_normal":
        return torch.sigmoid(torch.randn(count, generator=generator))
    uniform = 1 - torch.rand(count, generator=generator)  # (0, 1]: never exactly the data
    if method == "uniform":
        return uniform
    if method != "shifted":
        raise ValueError(f"unknown sigma sampling {method!r}; choose one of {', '.join(SIGMA_SAMPLING)}")
    if image_seq_len is None or scheduler_config is None:
        raise ValueError("sigma sampling 'shifted' needs image_seq_len and scheduler_config")
    shifted = shift_sigma(uniform, _mu(image_seq_len, scheduler_config))
    terminal = scheduler_config.get("shift_terminal") or 0.0
    return 1 - (1 - shifted) * (1 - terminal)


def derived_generator(seed: int, *path: int | str) -> torch.Generator:
    """A CPU generator that depends on `seed` and a path such as ("noise", step, sample) and on nothing else.

    Training draws every random number from one of these, so that a resumed run, gradient accumulation and
    several processes see the same numbers without carrying generator states around.
    """
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
