"""`load_pipeline`: the stock class from every source, and one clear line for every mistake."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import QwenImagePipeline

import qwenlab
from qwenlab.errors import QwenlabError
from qwenlab.lab.micro.assemble import assemble, save_pipeline
from qwenlab.lab.micro.text_encoder import build_text_encoder
from qwenlab.lab.micro.tokenizer import build_tokenizer
from qwenlab.lab.micro.transformer import build_transformer
from qwenlab.lab.micro.vae import build_vae
from qwenlab.model import pipeline as door
from qwenlab.model.quantize import quantised_layers
from qwenlab.model.vae2d import is_folded

needs_weights = pytest.mark.skipif(
    not (door.MICRO_WEIGHTS / "model_index.json").exists(), reason="the micro weights are being trained"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = build_tokenizer()
    text_encoder = build_text_encoder(tokenizer, 1, num_hidden_layers=1, intermediate_size=32)
    pipeline = assemble(build_vae(0, base_dim=4), build_transformer(192, 2, num_layers=1), text_encoder, tokenizer)
    return save_pipeline(pipeline, tmp_path_factory.mktemp("weights") / "pipeline", size=32)


def test_a_folder_gives_the_stock_class_folded_and_sized(folder: Path) -> None:
    pipeline = qwenlab.load_pipeline(folder, device="cpu")
    assert type(pipeline) is QwenImagePipeline
    assert is_folded(pipeline.vae)
    assert pipeline.transformer.dtype == pipeline.vae.dtype == pipeline.text_encoder.dtype == torch.float32
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("1女孩", num_inference_steps=2, true_cfg_scale=1.0).images[0].size == (32, 32)
    assert door.load_pipeline(folder, precision="bf16", device="cpu").transformer.dtype == torch.bfloat16


def test_a_folder_without_a_recorded_size_keeps_the_stock_default(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / door.SIZE_FILE).unlink()
    assert door.load_pipeline(tmp_path / "copy", device="cpu").default_sample_size == 128


def test_mistakes_are_one_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(match: str, *args: object, **options: object) -> None:
        with pytest.raises(QwenlabError, match=match) as caught:
            door.load_pipeline(*args, **options)
        assert "\n" not in str(caught.value)

    fails("unknown precision 'fp8'", folder, precision="fp8", device="cpu")
    fails("no model_index.json", tmp_path)
    fails("no pipeline './nowhere'", "./nowhere")
    fails("no pipeline 'nowhere'", "nowhere")
    fails("cannot be used on this machine", folder, device="cuda:99")
    monkeypatch.setattr(door, "MICRO_WEIGHTS", tmp_path / "none")
    fails("micro weights are incomplete", "micro", device="cpu")
    (tmp_path / "half").mkdir()
    index = json.loads((folder / "model_index.json").read_text())
    (tmp_path / "half" / "model_index.json").write_text(json.dumps(index))
    fails("is the folder complete", tmp_path / "half", device="cpu")


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_quantisation_covers_the_blocks_of_the_two_large_parts(folder: Path, precision: str) -> None:
    pipeline = door.load_pipeline(folder, precision=precision, device="cpu")
    assert len(quantised_layers(pipeline.transformer)) == 14  # of the one block
    assert len(quantised_layers(pipeline.text_encoder)) == 7
    assert not quantised_layers(pipeline.vae)
    assert type(pipeline.transformer.img_in) is torch.nn.Linear
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("1女孩", num_inference_steps=2, true_cfg_scale=1.0).images[0].size == (32, 32)


def test_a_cpu_without_bfloat16_rounds_float32_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "cpu_has_bf16", lambda: False)
    transformer = door.load_pipeline(folder, precision="int8", device="cpu").transformer
    assert transformer.dtype == torch.float32 and len(quantised_layers(transformer)) == 14


@needs_weights
def test_micro_is_shipped_small_and_draws() -> None:
    files = [f for f in door.MICRO_WEIGHTS.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 32e6
    assert not any(f.suffix in {".bin", ".pt", ".ckpt", ".pkl"} for f in files)
    pipeline = qwenlab.load_pipeline("micro", device="cpu")
    assert type(pipeline) is QwenImagePipeline and is_folded(pipeline.vae)
    pipeline.set_progress_bar_config(disable=True)
    seeds = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    images = pipeline(["1女孩", "1男孩"], num_inference_steps=2, true_cfg_scale=1.0, generator=seeds).images
    assert [image.size for image in images] == [(128, 128)] * 2


@needs_weights
def test_loading_micro_shows_no_bars_and_others_do(folder: Path, capfd: pytest.CaptureFixture) -> None:
    qwenlab.load_pipeline("micro", device="cpu")
    assert "Loading" not in capfd.readouterr().err
    qwenlab.load_pipeline(folder, device="cpu")
    shown = capfd.readouterr().err
    assert "Loading pipeline components" in shown and "Loading weights" in shown
