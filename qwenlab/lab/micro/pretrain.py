"""Pretrain the micro Qwen-Image from nothing, in stages that checkpoint and resume.

    python -m qwenlab.lab.micro.pretrain --stage all --out runs/base

Stages: `vae`, `latents` (pictures through the VAE, computed once), `transformer` (with the text encoder). The tokenizer
is computed, not trained, and is the same every time (`qwenlab.lab.micro.tokenizer`).
Results lie below --out: `vae/` and `pipeline/`; a stage whose result exists is left alone. A stage that was
killed continues from its last checkpoint and ends with the same bits as an unbroken run (same machine, same number
of threads). Nothing but torch's determinism and (seed, step) is relied on.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path

from qwenlab.errors import QwenlabError

STAGES = ("vae", "latents", "transformer", "all")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of the module."""
    parser = argparse.ArgumentParser(prog="python -m qwenlab.lab.micro.pretrain", description=__doc__.splitlines()[0])
    parser.add_argument("--stage", choices=STAGES, default="all")
    parser.add_argument("--out", type=Path, default=Path("runs/base"), help="folder for checkpoints, logs and results")
    parser.add_argument("--recipe", type=Path, help="YAML file with values that differ from the default recipe")
    parser.add_argument("--steps", type=int, help="steps of the chosen stage, instead of the recipe's")
    parser.add_argument("--stop-at", type=int, help="stop after this step, to continue later")
    parser.add_argument("--warm-start", type=Path, help="pipeline folder whose weights the stage begins with")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--threads", type=int, help="torch threads; a resumed run needs the same number for the same bits"
    )
    parser.add_argument("--workers", type=int, help="processes that draw pictures (default: all cores)")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Run the chosen stage or all of them. Raises `QwenlabError` for mistakes of the user."""
    import torch

    from qwenlab.lab.micro.pictures import Painter
    from qwenlab.lab.micro.recipe import load_recipe
    from qwenlab.lab.micro.runtime import pick_device

    recipe = load_recipe(args.recipe)
    if args.steps is not None:
        if args.stage not in ("vae", "transformer"):
            raise QwenlabError("--steps belongs to one stage: add --stage vae or --stage transformer")
        stage = dataclasses.replace(getattr(recipe, args.stage), steps=args.steps)
        recipe = dataclasses.replace(recipe, **{args.stage: stage})
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    common = {"device": device, "stop_at": args.stop_at, "warm_start": args.warm_start}
    with Painter(args.workers) as painter:
        if args.stage in ("vae", "all") and not (args.out / "vae").exists():
            from qwenlab.lab.micro.train_vae import train_vae

            train_vae(recipe, args.out, painter=painter, **common)
        if args.stage == "vae":
            return
        if not (args.out / "vae").exists():
            raise QwenlabError(f"{args.out / 'vae'} is missing: run --stage vae first (or copy a trained VAE there)")
        if args.stage == "latents":
            from qwenlab.lab.micro.latents import cache_latents, load_vae

            vae = load_vae(args.out / "vae", device)
            for split in ("train", "test"):
                cache_latents(recipe, args.out, vae, painter, split=split)
        elif not (args.out / "pipeline").exists():
            from qwenlab.lab.micro.train_transformer import train_transformer

            train_transformer(recipe, args.out, painter=painter, **common)


def main(argv: list[str] | None = None) -> int:
    """Entry point: 0 on success, 2 with one line on a mistake of the user."""
    try:
        run(parse(argv))
    except QwenlabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    raise SystemExit(main())
