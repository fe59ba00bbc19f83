"""How fast LoRAs of the real size are fused: `python -m benchmarks.fusion.speed`.

One layer of each shape, rank 64 and 64 to 64, beside `peft.add_weighted_adapter(combination_type="svd")` in the same
process, and a pair of files with all 840 linear layers of Qwen-Image's 60 blocks, rank 64, in bfloat16, through
`qwenlab fuse`: seconds, and the most anonymous memory of the process, read every 50 ms from /proc.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from qwenlab.files import REPOSITORY, atomic_write_json
from qwenlab.lab.results import stamp_result
from qwenlab.lora.files.architecture import QWEN_IMAGE
from qwenlab.lora.fusion.methods import concatenate
from qwenlab.lora.fusion.stream import write_tensors
from qwenlab.lora.rank import compress

SHAPES = ((3072, 3072), (3072, 12288), (12288, 3072))  # (d, k)
RANK, WEIGHTS = 64, (0.8, 0.4)
REPEATS = 9  # of the fast way; its median counts. The slow one runs once.
OUT = REPOSITORY / "benchmarks/fusion/speed.json"


def one_layer(d: int, k: int, rank: int) -> dict[str, float]:
    """Seconds of both ways for a layer (d, k), and how far their results are apart, relative to their norm."""
    torch.manual_seed(0)
    model = get_peft_model(
        nn.ModuleDict({"layer": nn.Linear(k, d, bias=False)}),
        LoraConfig(r=rank, lora_alpha=rank, target_modules=["layer"], init_lora_weights=False), adapter_name="fox",
    )  # fmt: skip
    model.add_adapter("ink", LoraConfig(r=rank, lora_alpha=rank, target_modules=["layer"], init_lora_weights=False))
    layer = model.base_model.model["layer"]
    pairs = [
        (layer.lora_A[name].weight.detach(), weight * layer.lora_B[name].weight.detach())
        for name, weight in zip(("fox", "ink"), WEIGHTS, strict=True)
    ]
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        (a, b), _ = compress(concatenate(pairs), rank)
        times.append(time.perf_counter() - started)
    ours = statistics.median(times)
    started = time.perf_counter()
    model.add_weighted_adapter(["fox", "ink"], list(WEIGHTS), "both", combination_type="svd", svd_rank=rank)
    theirs = time.perf_counter() - started
    found = layer.get_delta_weight("both").detach()
    return {
        "qwenlab_s": ours, "peft_s": theirs, "ratio": theirs / ours,
        "difference": float((b @ a - found).norm() / found.norm()),
    }  # fmt: skip


def write_full_size(path: Path, seed: int, width: int, blocks: int, rank: int) -> int:
    """A random LoRA of every linear layer of the blocks, bfloat16; returns the number of layers."""
    shapes = {
        f"transformer_blocks.{block}.{name}": (d * width, k * width)
        for block in range(blocks) for name, (d, k) in QWEN_IMAGE.block.items()
    }  # fmt: skip
    rng = torch.Generator().manual_seed(seed)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, (d, k) in shapes.items():
            yield f"transformer.{name}.lora_A.weight", torch.randn(rank, k, generator=rng).bfloat16()
            yield f"transformer.{name}.lora_B.weight", torch.randn(d, rank, generator=rng).bfloat16()

    write_tensors(path, [f"transformer.{name}.lora_{side}.weight" for name in shapes for side in "AB"], tensors(), {})
    return len(shapes)


def anonymous_gib(pid: int) -> float:
    """Anonymous memory of a process now, GiB; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 2**20


def fuse_files(folder: Path, width: int, blocks: int, rank: int) -> dict[str, float]:
    """Two files fused by the command to the rank that each has."""
    paths = [folder / f"{name}.safetensors" for name in ("fox", "ink")]
    layers = [write_full_size(path, seed, width, blocks, rank) for seed, path in enumerate(paths)][0]
    words = [f"{path}:{weight}" for path, weight in zip(paths, WEIGHTS, strict=True)]
    command = [sys.executable, "-m", "qwenlab", "fuse", *words, "--rank", str(rank), "--method", "svd"]
    started, peak = time.perf_counter(), 0.0
    with subprocess.Popen([*command, "--out", str(folder / "both.safetensors")], stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            peak = max(peak, anonymous_gib(process.pid))
            time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"qwenlab fuse ended with {process.returncode}")
    return {"layers": layers, "seconds": time.perf_counter() - started, "anonymous_gib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=3072, help="of the model; smaller to try")
    parser.add_argument("--blocks", type=int, default=60)
    parser.add_argument("--rank", type=int, default=RANK)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    result: dict[str, object] = {}
    for d, k in SHAPES:
        d, k = d * options.width // 3072, k * options.width // 3072
        row = result[f"{d} x {k}"] = one_layer(d, k, options.rank)
        print(f"{d} x {k}: {row['qwenlab_s']:.2f} s, peft {row['peft_s']:.1f} s: {row['ratio']:.0f} times", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        row = result["files"] = fuse_files(Path(folder), options.width, options.blocks, options.rank)
    print(f"{row['layers']} layers: {row['seconds']:.0f} s, {row['anonymous_gib']:.2f} GiB of anonymous memory")
    described = {"width": options.width, "blocks": options.blocks, "rank": options.rank, "weights": WEIGHTS}
    atomic_write_json(options.out, stamp_result(result, config=described, command="python -m benchmarks.fusion.speed"))


if __name__ == "__main__":
    main()
