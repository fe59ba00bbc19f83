"""A ControlNet for Qwen-Image: copies of the first blocks that read a control picture and add to the base's blocks.

    residuals = net(noisy tokens, clean tokens of the control picture, text)     one (B, S, D) of each of its n blocks
    after block i of the base's L blocks is added residual number i // ceil(L / n)

Every residual passes through a linear layer that starts at zero, so that an untrained net changes nothing (Zhang et
al., ControlNet, arXiv 2302.05543). The class is diffusers' own, as is the layout of the files: a net from here draws in
any program that uses `QwenImageControlNetModel`, and InstantX/Qwen-Image-ControlNet-Union can be trained on.

B batch, S image tokens, C channels of a token, D features inside of the blocks.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_bytes, atomic_write_text
from qwenlab.model.quantize import QUANTISED, weight_precision

if TYPE_CHECKING:
    from diffusers import QwenImageControlNetModel, QwenImageTransformer2DModel

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"  # names of `save_pretrained`
# What must be the same in a net and its base.
_SIZES = ("in_channels", "num_attention_heads", "attention_head_dim", "joint_attention_dim", "axes_dims_rope")
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_OTHER_NETS = re.compile(r"fun.?control|blockwise", re.IGNORECASE)
_OTHER_NET = (
    "is a ControlNet of another architecture (alibaba-pai's Fun, DiffSynth's blockwise), which diffusers' "
    "QwenImageControlNetModel does not read; take one such as InstantX/Qwen-Image-ControlNet-Union"
)


def unused_blocks(blocks: int, layers: int) -> int:
    """How many of a net's blocks add to none of the base's `layers`, and learn nothing: 1 of 4 where there are 6."""
    return max(0, blocks - -(-layers // math.ceil(layers / blocks)))


def check_blocks(transformer: QwenImageTransformer2DModel, blocks: int) -> None:
    """Raise QwenlabError when no net of so many blocks can be made for a transformer: `make_controlnet`."""
    layers = len(transformer.transformer_blocks)
    if idle := unused_blocks(blocks, layers):
        use = ", ".join(str(n) for n in range(1, min(blocks, layers) + 1) if not unused_blocks(n, layers))
        last = "last would" if idle == 1 else f"last {idle} would"
        raise QwenlabError(
            f"control_blocks: of {blocks} blocks for a transformer of {layers} the {last} never act; take one of {use}"
        )
    if weight_precision(transformer) in QUANTISED:
        raise QwenlabError(
            "control_blocks: quantised weights cannot be copied; load the base in fp32 or bf16, or name a ControlNet "
            "in control_net"
        )


def make_controlnet(
    transformer: QwenImageTransformer2DModel, blocks: int = 2, start: str = "img_in"
) -> QwenImageControlNetModel:
    """A new net in float32, its blocks copies of the transformer's first; it changes no picture before it is trained.

    start: of the projection of the control picture. "img_in": the weights with which the base reads noisy pictures;
        "zero": as in the paper and in diffusers. In the first step the projection has no gradient from either start, as
        none passes the residuals' layers of zeros; but these learn from what lies behind the projection, which is the
        same for all control pictures when it is zero.

    Raises QwenlabError for more blocks than can act, and for a transformer whose weights cannot be copied: quantised,
    with a LoRA or with a modulation table.
    """
    from diffusers import QwenImageControlNetModel

    check_blocks(transformer, blocks)
    heads = {name: transformer.config[name] for name in ("attention_head_dim", "num_attention_heads")}
    with _quiet(), torch.random.fork_rng():
        with torch.device("meta"):
            names = QwenImageControlNetModel.from_transformer(
                transformer, num_layers=blocks, load_weights_from_transformer=False, **heads
            ).state_dict()
        if lost := _first(n for n in names if not n.startswith("controlnet_") and n not in transformer.state_dict()):
            raise QwenlabError(
                f"control_blocks: the transformer has no plain weight {lost} to copy; take off its LoRA (remove_lora) "
                "or modulation table first"
            )
        net = QwenImageControlNetModel.from_transformer(transformer, num_layers=blocks, **heads)
    net.txt_norm.load_state_dict(transformer.txt_norm.state_dict())  # which from_transformer forgets
    if start == "img_in":  # its bias stays 0: that of the picture's own projection is there already
        net.controlnet_x_embedder.weight.data.copy_(transformer.img_in.weight.data)
    return net.eval()


def check_controlnet(name_or_path: str | Path, transformer: QwenImageTransformer2DModel) -> None:
    """Raise QwenlabError for what is no ControlNet for this transformer, as far as its configuration tells."""
    path = Path(name_or_path)
    local = path.exists()
    if not local and not _HUB_NAME.fullmatch(str(name_or_path)):
        raise QwenlabError(f"{name_or_path}: no such folder; give that of a ControlNet, which holds {CONFIG}")
    if _is_another_net(path) or (not local and _OTHER_NETS.search(str(name_or_path))):
        raise QwenlabError(f"{name_or_path}: {_OTHER_NET}")
    if local and not (path / CONFIG).is_file():
        inside = f", such as {path / 'controlnet'}" if (path / "controlnet" / CONFIG).is_file() else ""
        raise QwenlabError(f"{path}: holds no ControlNet (no {CONFIG}); give the folder that does{inside}")
    from diffusers import QwenImageControlNetModel

    with _one_line(name_or_path), _quiet():
        config = QwenImageControlNetModel.load_config(path if local else str(name_or_path), local_files_only=local)
    kind = config.get("_class_name")
    if kind != QwenImageControlNetModel.__name__:
        raise QwenlabError(f"{name_or_path}: is a {kind or 'model without a name'}, no QwenImageControlNetModel")
    for key in _SIZES:
        mine, wanted = (tuple(x) if isinstance(x, list) else x for x in (config.get(key), transformer.config[key]))
        if mine is not None and mine != wanted:
            raise QwenlabError(f"{name_or_path}: a ControlNet for another base ({key} {mine}, this one has {wanted})")
    if config.get("extra_condition_channels"):
        raise QwenlabError(f"{name_or_path}: a ControlNet for inpainting, which reads a mask, too; take one without")
    layers = len(transformer.transformer_blocks)
    if unused_blocks(config.get("num_layers", layers), layers):
        raise QwenlabError(f"{name_or_path}: some of its {config['num_layers']} blocks would never act on {layers}")


def load_controlnet(
    name_or_path: str | Path, transformer: QwenImageTransformer2DModel, dtype: torch.dtype | None = None
) -> QwenImageControlNetModel:
    """The net in a folder that `save_pretrained` or `save_controlnet` wrote, or of a repository on the Hub, checked.

    It goes to the transformer's device, in `dtype`, by default the transformer's. Raises QwenlabError for a missing or
    broken file, a net of another architecture or size, one that wants a mask as well, and values that are not finite.
    """
    from diffusers import QwenImageControlNetModel

    check_controlnet(name_or_path, transformer)
    local = Path(name_or_path).exists()
    with _one_line(name_or_path), _quiet():
        net, info = QwenImageControlNetModel.from_pretrained(
            name_or_path, dtype=dtype or transformer.dtype, local_files_only=local, output_loading_info=True,
            use_safetensors=True,
        )  # fmt: skip
    for fault, names in (("lacks", info["missing_keys"]), ("has a foreign", info["unexpected_keys"])):
        if names:
            raise QwenlabError(f"{name_or_path}: {fault} tensor {sorted(names)[0]}; copy or train the ControlNet again")
    if bad := _first(name for name, weight in net.named_parameters() if not torch.isfinite(weight).all()):
        raise QwenlabError(f"{name_or_path}: {bad} holds values that are not finite; train the ControlNet again")
    return net.to(transformer.device).eval()


@contextlib.contextmanager
def _one_line(name: str | Path) -> Iterator[None]:
    """What diffusers raises of a net, from missing files to mismatched shapes, as a QwenlabError."""
    try:
        yield
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        remedy = "is the folder complete?" if Path(name).exists() else "is this machine online, the name right?"
        raise QwenlabError(f"{name}: cannot be loaded as a ControlNet ({reason}); {remedy}") from error


def save_controlnet(
    net: QwenImageControlNetModel,
    folder: str | Path,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a net as `save_pretrained` does, each file whole or absent; `from_pretrained` of the class reads it.

    metadata: string entries for the header of the weights, as LoRA files have them. dtype: such as torch.bfloat16, for
    half the bytes; None: as it is. Raises OSError.
    """
    from safetensors.torch import save

    folder = Path(folder)
    state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in net.state_dict().items()}
    atomic_write_bytes(folder / WEIGHTS, save(state, metadata={**(metadata or {}), "format": "pt"}))
    atomic_write_text(folder / CONFIG, net.to_json_string())
    return folder


def controlnet_metadata(folder: str | Path) -> dict[str, str]:
    """The string entries of a net's weights. Raises QwenlabError when they cannot be read."""
    return _header(Path(folder) / WEIGHTS)[1]


class Controlled(nn.Module):
    """A transformer with a net beside it: called like the transformer, with `controlnet_cond` besides.

    Where the net has another dtype than the transformer, float32 weights beside bfloat16 ones, it computes in the
    transformer's.
    """

    def __init__(self, transformer: QwenImageTransformer2DModel, net: QwenImageControlNetModel) -> None:
        super().__init__()
        self.transformer, self.net = transformer, net

    def forward(self, *, controlnet_cond: Tensor, **inputs: Any) -> Any:
        """controlnet_cond (B, S, C): clean tokens of the control pictures; the answer is the transformer's."""
        theirs = {name: value for name, value in inputs.items() if name != "return_dict"}
        mixed = self.net.dtype != self.transformer.dtype
        device = controlnet_cond.device.type
        with torch.autocast(device, self.transformer.dtype) if mixed else contextlib.nullcontext():
            residuals = self.net(controlnet_cond=controlnet_cond, return_dict=False, **theirs)
        return self.transformer(controlnet_block_samples=residuals, **inputs)


def _is_another_net(path: Path) -> bool:
    """Whether a file, or a folder's only weights, hold a ControlNet that the stock class does not know."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))[:1]
    for file in files:
        try:
            names = _header(file)[0]
        except QwenlabError:
            return False  # what is wrong with it is said later
        if any(name.startswith(("control_blocks.", "control_img_in.", "controlnet_blocks.0.x_rms")) for name in names):
            return True
    return False


def _header(path: Path) -> tuple[list[str], dict[str, str]]:
    """The names of the tensors in a file, and its metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys()), file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise QwenlabError(f"{path}: not a readable safetensors file ({error}); copy or train it again") from error


def _first(names: Iterator[str]) -> str | None:
    return next(names, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """diffusers' remarks on configuration keys that only the transformer has are left out."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
