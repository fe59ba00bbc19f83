"""`qwenlab memory`: what fits a card, in the order in which to try it, and honest answers to impossible questions."""

import dataclasses
import json
import sys
import time

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.memory import full_scale, precision, vae_speed
from benchmarks.training import choices as training_choices
from qwenlab.cli import app
from qwenlab.config import config_from_mapping, read_config
from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY
from qwenlab.memory.cards import CARDS, find_card
from qwenlab.memory.command import config_text, report
from qwenlab.memory.formula import GIB, predict_step
from qwenlab.memory.plan import MARGIN, MEASURED_UTILISATION, all_options, best_of_each_precision, least, smaller
from qwenlab.memory.settings import MICRO, StepSettings
from qwenlab.memory.simulate import simulate_step
from qwenlab.model.pipeline import place_pipeline
from tests.tiny import tiny_pipeline

runner = CliRunner()
QUESTION = StepSettings(accumulation=4)  # rank 64, 1024 pixels
READY = (16, 24, 48, 80)


def test_the_answer_comes_at_once_and_is_a_configuration(tmp_path):
    out = tmp_path / "mine.yaml"
    started = time.perf_counter()
    result = runner.invoke(app, ["memory", "--gpu", "24", "--resolution", "1024", "--rank", "64", "--out", str(out)])
    assert time.perf_counter() - started < 5
    assert result.exit_code == 0, result.output
    for part in ("RTX 4090", "int8", "nf4", "predicted", "s/step", "together", "100%", str(out)):
        assert part in result.output
    config = read_config(out)
    assert (config.rank, config.alpha, config.resolution, config.base_precision) == (64, 64, 1024, "int8")
    assert config.modulation_timesteps == 1000 and config.gradient_checkpointing and config.free_text_encoder


@pytest.mark.parametrize(("gib", "blocks", "control"), [("141", 5, "control_blocks"), ("48", 5, "control_net")])
def test_a_controlnet_is_answered_with_a_configuration(tmp_path, gib, blocks, control):
    out = tmp_path / "mine.yaml"
    result = runner.invoke(app, ["memory", "--gpu", gib, "--control-blocks", str(blocks), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "ControlNet of 5 blocks for Qwen-Image" in result.output and "rank" not in result.output
    config = read_config(out)
    assert config.control_kind == "controlnet" and not config.modulation_timesteps
    assert {"control_blocks": config.control_blocks == blocks, "control_net": bool(config.control_net)}[control]
    result = runner.invoke(app, ["memory", "--gpu", gib, "--control-blocks", "61"])
    assert result.exit_code == 2 and "--control-blocks 61: must be a number from 0 to 60" in result.output


@pytest.mark.parametrize("gib", READY)
def test_the_ready_configurations_are_what_the_command_writes_and_fit(gib):
    option = all_options(QUESTION, find_card(str(gib)))[0]
    path = REPOSITORY / "configs" / f"qwen_image_{gib}gb.yaml"
    assert path.read_text(encoding="utf-8") == config_text(option)
    config = read_config(path)
    settings = StepSettings(
        weights=config.base_precision, optimizer=config.optimizer, rank=config.rank, height=config.resolution,
        width=config.resolution, apply_to=tuple(config.apply_to), accumulation=config.gradient_accumulation_steps,
        modulation_table=bool(config.modulation_timesteps),
        checkpointing="selective" if config.selective_checkpointing else
        "blocks" if config.gradient_checkpointing else "none",
    )  # fmt: skip
    assert predict_step(settings).total / GIB * MARGIN <= find_card(str(gib)).usable_gib <= gib


def test_options_are_ranked_by_fit_precision_and_time():
    options = all_options(QUESTION, find_card("48"))
    fits = [option.fits for option in options]
    assert fits == sorted(fits, reverse=True) and True in fits and False in fits
    order = ["bf16", "int8", "nf4"]
    precisions = [order.index(option.settings.weights) for option in options if option.fits]
    assert precisions == sorted(precisions)
    for option in options:
        if option.fits and option.settings.weights == options[0].settings.weights:
            assert option.seconds >= options[0].seconds * 0.99
    assert [option.settings.weights for option in best_of_each_precision(options)] == order


def test_a_card_that_is_too_small_gets_what_would_fit():
    card = find_card("12")
    assert not all_options(StepSettings(), card)[0].fits
    options = smaller(StepSettings(), card)
    assert options and all(option.fits for option in options)
    assert any(option.settings.height < 1024 or option.settings.rank < 64 for option in options)
    result = runner.invoke(app, ["memory", "--gpu", "12", "--rank", "64"])
    assert result.exit_code == 1 and "What would fit" in result.output


def test_impossible_questions_get_an_honest_answer():
    result = runner.invoke(app, ["memory", "--gpu", "6"])
    assert result.exit_code == 1 and "no resolution or rank makes it" in result.output and "micro" in result.output
    assert least(StepSettings(), find_card("6")).gib > 6
    result = runner.invoke(app, ["memory", "--gpu", "24", "--resolution", "4096"])
    assert result.exit_code == 1 and "more than Qwen-Image was trained for" in result.output
    result = runner.invoke(app, ["memory", "--gpu", "T4", "--rank", "64"])
    assert result.exit_code == 0 and "no bfloat16 units" in result.output
    assert float(result.output.split("nf4")[1].split()[4]) > 30, "seconds a step"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--gpu", "potato"], ["no card of that name", "RTX 4090"]),
        (["--gpu", "0"], ["no size of memory"]),
        (["--gpu", "nan"], ["no size of memory"]),
        (["--gpu", "24", "--resolution", "1000"], ["--resolution", "multiple of 16"]),
        (["--gpu", "24", "--rank", "0"], ["--rank 0", "from 1 to 4096"]),
        (["--gpu", "24", "--apply-to", "unet"], ["apply_to", "attention+mlp"]),
        (["--gpu", "24", "--out", "x.txt"], ["--out x.txt", ".yaml"]),
    ],
)
def test_mistakes_are_one_line(arguments, parts):
    result = runner.invoke(app, ["memory", *arguments])
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert all(part in result.stderr for part in parts), result.stderr


def test_cards_are_found_by_name_and_by_size():
    assert find_card("rtx 4090").tflops == find_card("NVIDIA GeForce RTX 4090").tflops == 165.2
    assert find_card("3090").name == "RTX 3090" and find_card("80").name == "A100 80 GB"
    assert find_card("20").gib == 20 and "20 GiB" in find_card("20").name
    with pytest.raises(QwenlabError, match="A100 40 GB, A100 80 GB"):
        find_card("A100")
    assert len({card.name for card in CARDS}) == len(CARDS)


def test_the_command_checks_itself_by_simulation(monkeypatch):
    small = dataclasses.replace(QUESTION, model=MICRO, height=128, width=128, rank=8, accumulation=1)
    from qwenlab.memory import command

    line = command.check_simulation(all_options(small, find_card("24"))[0])
    assert line.startswith("Simulated: ") and "%" in line


def call(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def test_the_full_scale_benchmark_runs_small_on_the_cpu(monkeypatch, tmp_path, capsys):
    out = tmp_path / "rows.json"
    rungs = {name: full_scale.RUNGS[name] for name in ("all rungs", "no checkpointing", "attention written out")}
    monkeypatch.setattr(full_scale, "RUNGS", rungs)
    arguments = ["--device", "cpu", "--model", "micro", "--resolutions", 64, "--ranks", 4, "--out", out]
    call(full_scale, monkeypatch, *arguments, "--weights", "bf16")
    rows = json.loads(out.read_text())["rows"]
    assert [row["rung"] for row in rows] == list(rungs)
    for row in rows:
        assert row["simulated"] == pytest.approx(row["allocator"], rel=0.03) and row["seconds"] > 0
    monkeypatch.setattr(full_scale, "room", lambda device: 0.0)
    capsys.readouterr()
    call(full_scale, monkeypatch, *arguments, "--weights", "bf16", "nf4")
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 6 and all("needs about" in row["skipped"] for row in rows[3:])
    assert "bf16" not in capsys.readouterr().out, "rows that are there are not measured again"


def test_kernels_that_are_missing_are_skipped_and_say_so():
    rows = dict(full_scale.plan("micro", [64], [4], ["bf16"], "cuda"))
    assert rows.keys() > set(full_scale.RUNGS) and rows["flash attention kernel"].attention == "flash"
    settings = rows["xFormers"]
    assert simulate_step(settings).peak == simulate_step(rows["all rungs"]).peak, "one fused kernel like another"
    row = full_scale.measure_row(settings, "cpu", full_scale.predict_row(settings))
    assert "xformers is not installed" in row["skipped"]


def test_the_vae_benchmark_compares_both_ways(monkeypatch, tmp_path):
    out = tmp_path / "vae.json"
    call(vae_speed, monkeypatch, "--pixels", 32, "--turns", 1, "--base-dim", 8, "--out", out)
    for row in (json.loads(out.read_text())[name] for name in ("encode", "decode")):
        assert row["difference"] < 1e-5 and row["memory"] > 1 and row["speed"] > 0


def test_the_precision_benchmark_measures_each_lora_twice(monkeypatch, tmp_path):
    out = tmp_path / "out.json"
    loaded = []

    def load(model, kind=None):
        loaded.append(kind)
        pipeline = tiny_pipeline()
        if kind == "bf16":
            for part in (pipeline.transformer, pipeline.text_encoder, pipeline.vae):
                part.to(torch.bfloat16)
            return pipeline
        return place_pipeline(pipeline, kind, torch.device("cpu"))

    monkeypatch.setattr(training_choices, "load_pipeline", load)
    monkeypatch.setattr(training_choices, "LOSS_PICTURES", 2)
    monkeypatch.setattr(precision, "VARIANTS", {"bf16": {"base_precision": "bf16"}, "int8": {"base_precision": "int8"}})
    arguments = ["--steps", 2, "--prompts", 2, "--seeds", 0, 1, "--work", tmp_path / "work", "--out", out]
    call(precision, monkeypatch, *arguments)
    stored = json.loads(out.read_text())
    assert loaded == ["bf16", "int8"] and {"bf16", "int8", "int8, drawn in bf16"} <= stored.keys()
    assert "against" in stored["int8, drawn in bf16"]
    assert stored["int8"]["held_out_loss"] != stored["int8, drawn in bf16"]["held_out_loss"]


def test_every_variant_of_precision_is_a_valid_configuration():
    assert [config_from_mapping(changes).base_precision for changes in precision.VARIANTS.values()]
    assert next(iter(precision.VARIANTS)) == "bf16", "the reference"


def test_the_measured_share_of_the_peak_is_the_stored_one():
    stored = json.loads((REPOSITORY / "benchmarks/memory/full_scale_qwen-image.json").read_text())
    (row,) = [row for row in stored["rows"] if "utilisation" in row]
    assert round(row["utilisation"], 3) == MEASURED_UTILISATION
    lines, _ = report(StepSettings(), find_card("H100"))
    assert any("reached 16%" in line for line in lines)


@pytest.mark.parametrize("gib", ["6", "8"])
def test_a_card_that_is_too_small_is_told_of_the_smallest_that_fits(gib):
    lines, best = report(StepSettings(), find_card(gib))
    assert best is None and "blocks_to_swap" in lines[-2]
    wanted = int(lines[-1].split("Rent a card of ")[1].split(" GiB")[0])
    assert report(StepSettings(), find_card(str(wanted)))[1] is not None
    assert report(StepSettings(), find_card(str(wanted - 1)))[1] is None
