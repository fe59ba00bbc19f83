"""Pretraining that is stopped or killed and resumed ends with the same bits as an unbroken run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLQwenImage
from safetensors.torch import load_file

from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY
from qwenlab.lab.micro import pretrain, train_vae
from qwenlab.lab.micro.recipe import load_recipe
from qwenlab.model.pipeline import load_pipeline

RECIPE = """
seed: 7
vae: {steps: 6, size: 32, crop: 16, batch: 2, pool: 6, refresh: 2, refresh_every: 2, warmup: 2, statistics: 8,
      checkpoint_every: 1, preview_every: 3, log_every: 1}
vae_config: {base_dim: 4}
transformer: {steps: 6, size: 32, pictures: 10, held_out: 4, batch: 4, warmup: 2, checkpoint_every: 1,
              preview_every: 3, log_every: 1}
transformer_config: {num_layers: 1}
text_config: {num_hidden_layers: 1, intermediate_size: 32}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def arguments(recipe: Path, out: Path, *extra: str) -> list[str]:
    return ["--recipe", str(recipe), "--out", str(out), "--device", "cpu", "--workers", "1", *extra]


@pytest.fixture(scope="module")
def unbroken(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    threads = torch.get_num_threads()
    assert pretrain.main(arguments(recipe, out, "--threads", "1")) == 0
    torch.set_num_threads(threads)
    return out


def same_bits(first: Path, second: Path) -> None:
    weights = sorted(p.relative_to(first) for p in first.rglob("*.safetensors"))
    assert len(weights) >= 8
    for name in weights:
        a, b = load_file(first / name), load_file(second / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), f"{name} differs"


def test_all_stages_make_a_pipeline(unbroken: Path) -> None:
    pipeline = load_pipeline(unbroken / "pipeline", device="cpu")
    assert pipeline.default_sample_size * pipeline.vae_scale_factor == 32
    assert pipeline.vae.config.latents_std != [1.0] * 16
    lines = [json.loads(line) for line in (unbroken / "vae.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert any("psnr" in line for line in lines)
    held_out = [json.loads(line) for line in (unbroken / "transformer.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["held_out"]["mean"]) for line in held_out if "held_out" in line)
    assert (unbroken / "vae-000003.png").exists() and (unbroken / "transformer-000006.png").exists()


def test_stopped_stages_resume_with_the_same_bits(recipe: Path, unbroken: Path, tmp_path: Path) -> None:
    for stage, stops in (("vae", ("2", "5")), ("transformer", ("3",))):
        for stop in stops:
            assert (
                pretrain.main(arguments(recipe, tmp_path, "--stage", stage, "--stop-at", stop, "--threads", "1")) == 0
            )
            assert not (tmp_path / ("vae" if stage == "vae" else "pipeline")).exists()
        assert pretrain.main(arguments(recipe, tmp_path, "--stage", stage, "--threads", "1")) == 0
    same_bits(unbroken, tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "vae.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps.count(4) == 1


def test_killed_process_resumes_with_the_same_bits(recipe: Path, unbroken: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qwenlab.lab.micro.pretrain", *arguments(recipe, tmp_path, "--threads", "1")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 600  # importing torch takes minutes on a machine under heavy load
        while not (tmp_path / "vae.checkpoint.safetensors").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert pretrain.main(arguments(recipe, tmp_path, "--threads", "1")) == 0
    same_bits(unbroken, tmp_path)


def test_warm_start_begins_with_the_given_weights(recipe: Path, unbroken: Path, tmp_path: Path) -> None:
    shutil.copytree(unbroken / "vae", tmp_path / "vae")
    extra = ("--stage", "transformer", "--stop-at", "1", "--threads", "1")
    assert pretrain.main(arguments(recipe, tmp_path, *extra, "--warm-start", str(unbroken / "pipeline"))) == 0
    start = load_file(unbroken / "pipeline/transformer/diffusion_pytorch_model.safetensors")
    state = load_file(tmp_path / "transformer.checkpoint.safetensors")
    name = "transformer_blocks.0.attn.to_q.weight"
    moved = (state[f"model/transformer.{name}"] - start[name].float()).abs()
    assert 0 < moved.max() < 0.1  # one step away from the old weights; a fresh start lies far from them


def test_decoder_only_leaves_encoder_and_statistics_alone(recipe: Path, unbroken: Path, tmp_path: Path, capsys) -> None:
    file = tmp_path / "decoder.yaml"
    file.write_text(
        recipe.read_text(encoding="utf-8").replace("vae: {", "vae: {decoder_only: true, "), encoding="utf-8"
    )
    command = arguments(file, tmp_path / "out", "--stage", "vae")
    assert pretrain.main(command) == 2
    assert "--warm-start" in capsys.readouterr().err
    assert pretrain.main([*command, "--warm-start", str(unbroken / "vae")]) == 0
    before, after = (AutoencoderKLQwenImage.from_pretrained(folder / "vae") for folder in (unbroken, tmp_path / "out"))
    changed = {key for key, value in before.state_dict().items() if not torch.equal(value, after.state_dict()[key])}
    assert changed and all(key.startswith(("decoder.", "post_quant_conv.")) for key in changed)
    assert after.config.latents_mean == before.config.latents_mean
    assert after.config.latents_std == before.config.latents_std


def test_mistakes_are_one_line(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain.main(arguments(recipe, tmp_path, "--stage", "transformer")) == 2
    assert "--stage vae first" in capsys.readouterr().err
    assert pretrain.main(arguments(recipe, tmp_path, "--steps", "3")) == 2
    assert pretrain.main(["--recipe", str(tmp_path / "none.yaml"), "--out", str(tmp_path)]) == 2
    assert "none.yaml" in capsys.readouterr().err
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("vae: {stepz: 3}", encoding="utf-8")
    with pytest.raises(QwenlabError, match="stepz"):
        load_recipe(wrong)


def test_another_recipe_cannot_continue_a_checkpoint(recipe: Path, tmp_path: Path, capsys) -> None:
    assert pretrain.main(arguments(recipe, tmp_path, "--stage", "vae", "--stop-at", "1")) == 0
    assert pretrain.main(arguments(recipe, tmp_path, "--stage", "vae", "--steps", "9")) == 2
    assert "steps differ" in capsys.readouterr().err
    (tmp_path / "vae.checkpoint.safetensors").write_bytes(b"broken")
    assert pretrain.main(arguments(recipe, tmp_path, "--stage", "vae")) == 2
    assert "delete it" in capsys.readouterr().err


def test_a_faint_edge_counts_as_much_as_a_strong_one() -> None:
    ramp = torch.linspace(0, 1, 8)
    true = torch.zeros(1, 3, 1, 16, 16)
    errors = []
    for contrast in (0.2, 2.0):
        true[..., 8] = contrast  # differences across one vertical edge
        lost = train_vae.faint_edges(torch.zeros_like(true), true)
        errors.append(lost.item())
    assert 0.75 < errors[0] / errors[1] < 1  # L1 alone would say 0.1
    assert train_vae.faint_edges(ramp.expand(1, 3, 1, 8, 8), torch.zeros(1, 3, 1, 8, 8)) == 0  # no edge, no say


def test_the_shipped_decoder_recipe_is_read() -> None:
    shipped = load_recipe(REPOSITORY / "configs/pretrain/vae_decoder.yaml").vae
    assert shipped.decoder_only and shipped.faint_edge_weight > 0


def test_psnr_of_a_known_error() -> None:
    a = np.zeros((2, 4, 4, 3), np.uint8)
    assert train_vae.psnr(a, a + 16) == pytest.approx(20 * np.log10(255 / 16))
