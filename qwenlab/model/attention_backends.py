"""Choose the attention kernel of the transformer, and trust it only after a test.

Captions of a batch differ in length; the shorter ones are padded, and a mask keeps the padding out of attention. A
kernel that mistakes the mask mixes padding into every picture and raises nothing: xFormers, for one, has been handed a
mask of 0 and 1 that it *adds* to the scores. `padding_leak` finds out by experiment.

B batch, S tokens (text, then image), H heads, D features of a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from qwenlab.errors import QwenlabError

LEAK_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}  # rounding; a leak is near 1


def backend_names() -> list[str]:
    """Every backend that this diffusers knows, whether this machine can run it or not."""
    from diffusers.models.attention_dispatch import AttentionBackendName

    return sorted(name.value for name in AttentionBackendName)


def padding_leak(backend: str, device: torch.device | str, dtype: torch.dtype) -> float:
    """How much padding changes the answer of a backend, relative to the answer; rounding only when it is right.

    A batch of two samples, one with 24 of 64 tokens padded, against the same two samples alone without padding. The
    padded positions hold large numbers, so that a leak shows. Goes backwards, too, as training does. Raises what the
    backend raises when it takes no mask or has no gradient.
    """
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 64, 2, 64, generator=generator).to(device, dtype) for _ in range(3))
    mask = torch.ones(2, 1, 1, 64, dtype=torch.bool, device=device)  # (B, 1, 1, S), as Qwen-Image builds it
    mask[0, ..., 8:32] = False  # padding stands between the text and the image
    key[0, 8:32], value[0, 8:32] = 3.0, 30.0
    kept = mask[0, 0, 0]
    for x in (query, key, value):
        x.requires_grad_()

    def attend(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None) -> Tensor:  # (B, S, H, D)
        return dispatch_attention_fn(q, k, v, attn_mask=attn_mask, backend=backend).float()

    with torch.enable_grad():
        together = attend(query, key, value, mask)
        together[:, kept].sum().backward()
    with torch.no_grad():
        alone = attend(*(x[:1, kept].contiguous() for x in (query, key, value)), None)[0]
        whole = attend(*(x[1:] for x in (query, key, value)), None)[0]
    worst = max((together[0, kept] - alone).abs().max().item(), (together[1] - whole).abs().max().item())
    return worst / alone.abs().max().item()


def check_attention_backend(backend: str, device: torch.device | str, dtype: torch.dtype) -> None:
    """Refuse a backend that is unknown, cannot train here, takes no padding mask or mistakes it: QwenlabError."""
    _require_available(backend)
    try:
        leak = padding_leak(backend, device, dtype)
    except Exception as error:  # kernels raise anything: no such operator, a missing package, a shape they do not take
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise QwenlabError(
            f"attention_backend: {backend!r} cannot train with a padding mask here ({reason}); use native, which "
            "takes the flash kernel by itself where nothing is padded"
        ) from error
    tolerance = LEAK_TOLERANCE.get(dtype, 5e-2)
    if not leak <= tolerance:
        raise QwenlabError(
            f"attention_backend: {backend!r} lets padding into attention (answers change by {leak:.0%}); use native"
        )


def _require_available(backend: str) -> None:
    import difflib

    from diffusers.utils import is_xformers_available

    names = backend_names()
    if backend not in names:
        close = difflib.get_close_matches(backend, names, n=1)
        raise QwenlabError(f"attention_backend: {backend!r} is unknown; did you mean {(close or ['native'])[0]!r}?")
    if backend == "xformers" and not is_xformers_available():
        raise QwenlabError(
            'attention_backend: xformers is not installed or does not fit this torch; pip install "qwenlab[gpu]" on a '
            "machine with CUDA, or use native"
        )


@contextlib.contextmanager
def attention_backend(transformer: nn.Module, backend: str, device: torch.device | None = None) -> Iterator[None]:
    """Within the block `transformer` attends with `backend`, after `check_attention_backend`; then as before.

    device: where it will attend; None: where it is. `set_attention_backend` of diffusers also changes the default of
    the whole process: that is put back, too.
    """
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    _require_available(backend)
    default = registry.get_active_backend()[0]
    before = [(processor, processor._attention_backend) for processor in transformer.attn_processors.values()]
    try:
        if backend != "native":
            try:
                transformer.set_attention_backend(backend)
            except (RuntimeError, ImportError, ValueError) as error:
                raise QwenlabError(f"attention_backend: {str(error).splitlines()[0]}") from error
        check_attention_backend(backend, device or transformer.device, transformer.dtype)
        yield
    finally:
        registry.set_active_backend(default)
        for processor, value in before:
            processor._attention_backend = value
