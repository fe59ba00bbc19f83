"""The memory of a training step by counting: what is kept, in bytes, for any size and setting.

The parts follow the stock transformer line by line. Numbers of a token: d features inside the blocks, c bytes each;
N tokens, text and picture together. `qwenlab.memory.simulate` executes the same step and checks the count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qwenlab.lora.targets import TARGETS, target_modules
from qwenlab.memory.settings import StepSettings

GIB = 1024**3
NF4_BLOCK, NF4_NESTED_BLOCK = 64, 256  # numbers under one scale of a byte; such scales under one of four bytes
ADAM_BLOCK = 256  # states under one scale of four bytes
ADAM_SMALLEST = 4096  # bitsandbytes keeps the states of smaller tensors in float32
# Predicted, from what CUDA programs show: scratch memory of matrix kernels and what the caching allocator loses by
# cutting, and the context with its loaded kernels, which the allocator does not see. A GPU measures both.
WORKSPACE = 128 * 1024**2
CUDA_CONTEXT = 450 * 1024**2
# Bytes that a block of a ControlNet keeps of a token, for each of its d features: every layer's input, as its weights
# are trained, too. Read off the executed step and not off its lines: under autocast some are float32, most bfloat16.
NET_KEPT = {"fp32": 100, "bf16": 65}


@dataclass(frozen=True)
class Prediction:
    """Bytes of each part at the peak of a training step; `total` is what a card must have."""

    weights: int
    lora: int  # or the ControlNet
    optimizer: int
    gradients: int
    inputs: int  # noisy latents, target, text, rotary embedding
    activations: int  # kept from the forward pass for the backward pass
    transient: int  # of the block that is being worked on
    workspace: int = WORKSPACE
    context: int = CUDA_CONTEXT

    @property
    def tensors(self) -> int:
        """Bytes in tensors: what simulation and measurement call the peak."""
        kept = self.weights + self.lora + self.optimizer + self.gradients
        return kept + self.inputs + self.activations + self.transient

    @property
    def total(self) -> int:
        """Bytes of the whole program on a CUDA card."""
        return self.tensors + self.workspace + self.context


def predict_step(settings: StepSettings) -> Prediction:
    """The peak of one training step of `settings`, in microseconds of time."""
    if settings.control_blocks:
        return _predict_controlnet(settings)
    layers = settings.model.num_layers
    trained = _shapes_with_gradient(settings)
    gradients = 4 * sum(a + b for a, b in trained)
    tokens, attention = _kept_in_block(settings)
    work = _work_in_block(settings)
    always = {
        "weights": weight_bytes(settings),
        "lora": 4 * lora_parameters(settings),
        "optimizer": sum(_state_bytes(settings.optimizer, n) for pair in trained for n in pair),
        "inputs": _inputs(settings),
    }
    left_over = gradients if settings.accumulation > 1 else 0  # of the batch before
    if settings.checkpointing == "none":  # everything is there when the backward pass begins, and no gradient
        return Prediction(**always, gradients=left_over, activations=layers * (tokens + attention), transient=work)
    entering = _element(settings) * settings.tokens * settings.model.width  # what a block reads
    stored = entering + (_attention_output(settings) if settings.checkpointing == "selective" else 0)
    transient = tokens + attention - entering + work
    early = Prediction(**always, gradients=left_over, activations=layers * stored, transient=transient)
    # What blocks read goes as gradients come: the peak is at one end of the backward pass.
    almost = max(left_over, gradients * (layers - 1) // layers)
    late = Prediction(**always, gradients=almost, activations=2 * stored, transient=transient)
    return max(early, late, key=lambda prediction: prediction.tensors)


def _predict_controlnet(settings: StepSettings) -> Prediction:
    """The net's backward pass comes last: at its end all gradients are there, at the beginning all activations."""
    shapes = _net_shapes(settings)
    trained = [size for size, has_gradient in shapes if has_gradient]
    c, d, n = _element(settings), settings.model.width, settings.control_blocks
    always = {
        "weights": weight_bytes(settings),
        "lora": 4 * sum(size for size, _ in shapes),
        "optimizer": sum(_state_bytes(settings.optimizer, size) for size in trained),
        "inputs": _inputs(settings),
    }
    gradients, work = 4 * sum(trained), _work_in_block(settings)
    left_over = gradients if settings.accumulation > 1 else 0  # of the batch before
    # Nothing is kept of the base's first block, which reads nothing of the net.
    layers, (tokens, attention) = settings.model.num_layers - 1, _kept_in_block(settings)
    entering = c * settings.tokens * d
    matrices = sum(size for size in trained if size >= d * d)
    of_block = NET_KEPT["fp32" if c == 4 else "bf16"] * settings.tokens * d
    copied = 0 if c == 4 else 2  # bytes of a weight that autocast makes anew
    if settings.checkpointing == "none":
        kept = layers * (tokens + attention) + n * of_block + copied * matrices
        early = Prediction(**always, gradients=left_over, activations=kept, transient=work)
        late = Prediction(**always, gradients=gradients, activations=entering, transient=6 * d * d * c)
        return max(early, late, key=lambda prediction: prediction.tensors)
    stored = entering + (_attention_output(settings) if settings.checkpointing == "selective" else 0)
    transient = tokens + attention - entering + work
    early = Prediction(**always, gradients=left_over, activations=(layers + n) * stored, transient=transient)
    # The net's first block comes last, when the others have their gradients: it is computed again as a whole.
    before = max(left_over, gradients * (n - 1) // n)
    transient = of_block + copied * matrices // n + work
    late = Prediction(**always, gradients=before, activations=entering, transient=transient)
    end = Prediction(**always, gradients=gradients, activations=entering, transient=6 * d * d * c)
    return max(early, late, end, key=lambda prediction: prediction.tensors)


def _net_shapes(settings: StepSettings) -> list[tuple[int, bool]]:
    """Parameters of each tensor of a ControlNet, and whether it gets a gradient: the last block's text gets none."""
    model, d = settings.model, settings.model.width
    block = (
        [(d * d, True), (d, True)] * 7 + 2 * [(6 * d * d, True), (6 * d, True)] + 4 * [(model.attention_head_dim, True)]
    )
    block += [(4 * d * d, True), (4 * d, True), (4 * d * d, True), (d, True)]  # the picture's MLP
    of_text = [d * d, d, 4 * d * d, 4 * d, 4 * d * d, d]  # to_add_out and the text's MLP
    ends = [256 * d, d, d * d, d, model.joint_attention_dim, model.joint_attention_dim * d, d]
    ends += 2 * [model.in_channels * d, d] + settings.control_blocks * [d * d, d]
    blocks = settings.control_blocks * block + [(size, True) for size in ends]
    return blocks + [(size, number > 0) for number in range(settings.control_blocks) for size in of_text]


def nf4_bytes(numbers: int) -> int:
    """Bytes of `numbers` weights in double-quantised NF4: half a byte each, and their scales."""
    scales = -(-numbers // NF4_BLOCK)
    return -(-numbers // 2) + scales + 4 * -(-scales // NF4_NESTED_BLOCK)


def adamw_8bit_bytes(numbers: int) -> int:
    """Bytes of both states of a tensor of `numbers` parameters in bitsandbytes' AdamW8bit."""
    if numbers < ADAM_SMALLEST:
        return 8 * numbers
    return 2 * (numbers + 4 * -(-numbers // ADAM_BLOCK))


def weight_parameters(settings: StepSettings) -> tuple[int, int]:
    """Parameters of the blocks' linear layers, and all others (norms, biases, input, output, timestep)."""
    model, d = settings.model, settings.model.width
    mod = 0 if settings.modulation_table else 2
    matrices = model.num_layers * (8 * d * d + 16 * d * d + mod * 6 * d * d)
    biases = model.num_layers * (8 * d + 10 * d + mod * 6 * d + 4 * model.attention_head_dim)
    timestep = 0 if settings.modulation_table else 256 * d + d + d * d + d
    ends = model.in_channels * d + d  # img_in
    ends += model.joint_attention_dim * (d + 1) + d  # txt_in and txt_norm
    ends += d * 2 * d + 2 * d + d * 4 * model.out_channels + 4 * model.out_channels  # norm_out and proj_out
    return matrices, biases + timestep + ends


def weight_bytes(settings: StepSettings) -> int:
    """Bytes of the frozen weights."""
    matrices, others = weight_parameters(settings)
    if settings.weights == "nf4":
        d = settings.model.width
        sizes = 8 * [d * d] + 4 * [4 * d * d] + ([] if settings.modulation_table else 2 * [6 * d * d])
        return settings.model.num_layers * sum(map(nf4_bytes, sizes)) + 2 * others
    if settings.weights == "int8":
        d = settings.model.width
        outputs = 8 * d + 10 * d + (0 if settings.modulation_table else 12 * d)
        return matrices + 4 * outputs * settings.model.num_layers + 2 * others
    return _element(settings) * (matrices + others)


def lora_parameters(settings: StepSettings) -> int:
    """Parameters of both factors of all layers: rank times the sum of inputs and outputs."""
    shapes = [shape for _ in range(settings.model.num_layers) for shape in _lora_shapes(settings)]
    return sum(a + b for a, b in shapes)


def _lora_shapes(settings: StepSettings) -> list[tuple[int, int]]:
    """Parameters of A and of B of each layer of a block that carries a LoRA."""
    return [(settings.rank * k, settings.rank * out) for k, out in map(_in_out(settings), _targets(settings))]


def _shapes_with_gradient(settings: StepSettings) -> list[tuple[int, int]]:
    """The same for the whole model without the layers that only make the last block's text, which nobody reads."""
    shapes = _lora_shapes(settings) * settings.model.num_layers
    size = _in_out(settings)
    for name in ("to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2"):
        if name in _targets(settings):
            k, out = size(name)
            shapes.remove((settings.rank * k, settings.rank * out))
    return shapes


def _targets(settings: StepSettings) -> list[str]:
    return [] if settings.control_blocks else target_modules(settings.apply_to)


def _in_out(settings: StepSettings) -> Callable[[str], tuple[int, int]]:
    """Inputs and outputs of a block's layer, by its name."""
    d = settings.model.width
    wide = {"img_mlp.net.0.proj": (d, 4 * d), "txt_mlp.net.0.proj": (d, 4 * d)}
    wide |= {"img_mlp.net.2": (4 * d, d), "txt_mlp.net.2": (4 * d, d)}
    wide |= dict.fromkeys(TARGETS["modulation"], (d, 6 * d))
    return lambda name: wide.get(name, (d, d))


def _state_bytes(optimizer: str, numbers: int) -> int:
    return adamw_8bit_bytes(numbers) if optimizer == "adamw_8bit" else 8 * numbers + 4  # and the number of steps


def _element(settings: StepSettings) -> int:
    """Bytes of one number of the activations."""
    return 4 if settings.weights == "fp32" else 2


def _inputs(settings: StepSettings) -> int:
    """Bytes of the batch and of the rotary embedding: its tables of 4096 positions, and the rows of this picture."""
    model, c = settings.model, _element(settings)
    picture = settings.batch * model.in_channels * (settings.stream_tokens * c + settings.image_tokens * 4)
    text = settings.batch * settings.text_tokens * model.joint_attention_dim * c
    rows = 2 * 4096 + settings.stream_tokens + settings.text_tokens
    if settings.control_blocks:  # the control picture, and the net's own embedding
        picture += settings.batch * model.in_channels * settings.image_tokens * c
        rows *= 2
    return picture + text + rows * model.attention_head_dim // 2 * 8


def _kept_in_block(settings: StepSettings) -> tuple[int, int]:
    """Bytes that one block keeps for its backward pass: of tokens, and of the batch's attention."""
    c, d, heads = _element(settings), settings.model.width, settings.model.num_attention_heads
    low_rank = c * settings.rank
    total = 0
    for stream, tokens in (("img", settings.stream_tokens), ("txt", settings.text_tokens)):
        names = set(_targets(settings)) & set(_STREAM[stream])
        qkv, out, up, down = ([name for name in group if name in names] for group in _groups(stream))
        numbers = 2 * d  # the input of each norm: of the block, and after attention
        numbers += d * bool(qkv) + d * bool(up) + 4 * d * bool(down)  # what the LoRA's A reads
        numbers += 4 * d  # before GELU
        numbers += 2 * d  # what the norms of queries and keys read
        total += (c * numbers + low_rank * len(names)) * tokens * settings.batch
    joint = settings.tokens * (3 * c * d + c * d + 4 * heads)  # queries, keys, values, the answer, sums of exponentials
    if settings.attention == "math":
        # In float32 whatever the dtype: scaled queries and keys, values, the matrix of all pairs.
        square = settings.batch * heads * (settings.stream_tokens + settings.text_tokens) ** 2
        joint = settings.tokens * (4 * 3 * d + c * d) + 4 * square
    return total, joint


_STREAM = {
    "img": ("to_q", "to_k", "to_v", "to_out.0", "img_mlp.net.0.proj", "img_mlp.net.2"),
    "txt": ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2"),
}


def _groups(stream: str) -> tuple[tuple[str, ...], ...]:
    names = _STREAM[stream]
    return names[:3], names[3:4], names[4:5], names[5:]


def _attention_output(settings: StepSettings) -> int:
    if settings.attention == "math":
        return 0
    heads = settings.model.num_attention_heads
    return settings.tokens * (_element(settings) * settings.model.width + 4 * heads)


def _work_in_block(settings: StepSettings) -> int:
    """Bytes that come and go while a block is worked on, where they are most: in the picture's MLP."""
    c, d = _element(settings), settings.model.width
    image = settings.batch * settings.stream_tokens
    work = 2 * 4 * d * c * image  # gradients behind and before GELU
    if settings.weights in ("int8", "nf4"):
        work += 4 * d * d * c  # the weights of the layer, made again
    if settings.attention == "math":
        square = settings.batch * settings.model.num_attention_heads
        square *= (settings.stream_tokens + settings.text_tokens) ** 2
        work = max(work, 2 * 4 * square)
    return work
