"""Merged LoRAs against the dense sum of their updates, and files against what they must not do."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from qwenlab.cli import app
from qwenlab.errors import QwenlabError
from qwenlab.lora.files.reading import read_lora
from qwenlab.lora.fusion import METHODS, Source, files, fuse, parse_source
from qwenlab.lora.fusion.methods import (
    average_factors,
    concatenate,
    core_space,
    cross_terms,
    dare,
    drop_and_rescale,
    elect,
    knots,
    orthogonal,
    ties,
)
from qwenlab.lora.fusion.sampling import composing, switching
from qwenlab.lora.fusion.stream import write_tensors
from qwenlab.lora.io import load_lora, remove_lora, save_lora
from qwenlab.lora.layers import inject_lora
from qwenlab.lora.rank import compress
from qwenlab.lora.targets import target_modules
from qwenlab.model.generation import generate
from tests.lora.lora_factors import KINDS, SHAPES, dense, factors, product, relative, updates, write_lora


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_files_of_all_sorts_are_summed_exactly_and_compressed_optimally(kind, dtype, tmp_path):
    a = write_lora(tmp_path / "a.safetensors", 4, 1, dtype, kind=kind)
    rank = 4 if kind == "duplicated" else 6
    b = write_lora(tmp_path / "b.safetensors", rank, 1, dtype, alpha=3.0, kind=kind, which=1)
    sources, summed = [Source(a, 0.8), Source(b, -0.4)], tmp_path / "sum.safetensors"
    fuse(sources, summed)
    wanted = {name: 0.8 * update - 0.4 * updates(b)[name] for name, update in updates(a).items()}
    for name, update in updates(summed).items():
        assert relative(update, wanted[name]) < 1e-6
    result = fuse(sources, tmp_path / "small.safetensors", method="svd", rank=3)
    for name, update in updates(result.path).items():
        singular = torch.linalg.svdvals(wanted[name])
        tail, distance = singular[3:].norm(), (update - wanted[name]).norm()
        assert distance == pytest.approx(tail.item(), rel=1e-5, abs=1e-6 * singular[0].item())
        assert result.kept[name] == pytest.approx((singular[:3].norm() / singular.norm()).item() ** 2, abs=1e-6)


def test_the_files_say_how_they_were_made(tmp_path):
    path = write_lora(tmp_path / "a.safetensors")
    done = []
    result = fuse([Source(path, 0.5)], tmp_path / "c.safetensors", method="svd", rank=2, on_layer=done.append)
    with safe_open(result.path, "pt") as file:
        recipe = json.loads(file.metadata()["qwenlab.fused_from"])
    assert recipe["method"] == "svd" and recipe["rank"] == 2 and recipe["sources"][0]["weight"] == 0.5
    assert recipe["sources"][0]["file"] == "a.safetensors" and len(recipe["sources"][0]["sha256"]) == 64
    assert done == [4] * 4 and result.layers == 4
    half = fuse([Source(path)], tmp_path / "half.safetensors", dtype="bfloat16").path
    assert {value.dtype for value in load_file(half).values()} == {torch.bfloat16}


def test_blocks_have_weights_of_their_own(tmp_path):
    path = write_lora(tmp_path / "a.safetensors")
    source = Source(path, 0.5, {"transformer_blocks.1.*": 0.0, "*": 2.0})
    found = updates(fuse([source], tmp_path / "b.safetensors").path)
    for name, update in updates(path).items():
        wanted = 0 if name.startswith("transformer_blocks.1") else update
        assert torch.allclose(found[name], torch.zeros_like(update) + wanted, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_what_the_stock_loader_takes(method, tmp_path):
    paths = [write_lora(tmp_path / f"{k}.safetensors", 3 + k, k) for k in range(3)]
    result = fuse([Source(p, 0.5) for p in paths], tmp_path / "out.safetensors", method=method, rank=5)
    lora = read_lora(result.path)
    assert {layer.rank for layer in lora.layers.values()} == {5} and list(lora.layers) == list(SHAPES)
    for update in updates(result.path).values():
        assert update.isfinite().all() and update.norm() > 0


def test_what_does_not_belong_together_is_named(tmp_path):
    good = write_lora(tmp_path / "a.safetensors")
    part = write_lora(tmp_path / "part.safetensors", layers=list(SHAPES)[:2], seed=5)
    missing = r"part.*lacks 2 of 4 layers \(transformer_blocks.0.img_mlp.net.2, .*allow"
    with pytest.raises(QwenlabError, match=missing):
        fuse([Source(good), Source(part)], tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    fuse([Source(good), Source(part, 2.0)], tmp_path / "out.safetensors", allow_partial=True)
    found, whole, other = updates(tmp_path / "out.safetensors"), updates(good), updates(part)
    for name in SHAPES:
        assert relative(found[name], whole[name] + 2 * other.get(name, 0)) < 1e-6
    wide = {f"transformer.transformer_blocks.0.attn.to_q.lora_{s}.weight": torch.ones(n, m)
            for s, (n, m) in {"A": (2, 256), "B": (256, 2)}.items()}  # fmt: skip
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(QwenlabError, match="wide.*width 256, but .*a.safetensors for micro"):
        fuse([Source(good), Source(tmp_path / "wide.safetensors")], tmp_path / "x.safetensors")
    lokr = load_file(good) | {"transformer.transformer_blocks.2.attn.to_q.lokr_w1": torch.ones(2, 2)}
    save_file(lokr, tmp_path / "lokr.safetensors")
    with pytest.raises(QwenlabError, match=r"LoKr cannot be fused.*transformer_blocks.2.attn.to_q"):
        fuse([Source(good), Source(tmp_path / "lokr.safetensors")], tmp_path / "x.safetensors")
    broken = load_file(good)
    broken["transformer.transformer_blocks.1.attn.to_q.lora_A.weight"][0, 0] = float("nan")
    save_file(broken, tmp_path / "nan.safetensors")
    with pytest.raises(QwenlabError, match="transformer_blocks.1.attn.to_q.*NaN"):
        fuse([Source(tmp_path / "nan.safetensors")], tmp_path / "x.safetensors")
    assert not list(tmp_path.glob("*x.safetensors*")), "nothing is left of a broken fusion"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "svd"}, "--method svd: needs a rank"),
        ({"method": "mean"}, "--method 'mean': unknown; choose from concat"),
        ({"rank": 0}, "--rank 0: must be a number from 1 to 4096"),
        ({"dtype": "int8"}, "--dtype 'int8': unknown"),
    ],
)
def test_wrong_choices_are_one_line(options, message, tmp_path):
    with pytest.raises(QwenlabError, match=message):
        fuse([Source(write_lora(tmp_path / "a.safetensors"))], tmp_path / "b.safetensors", **options)


def test_no_file_is_overwritten(tmp_path):
    path = write_lora(tmp_path / "a.safetensors")
    with pytest.raises(QwenlabError, match="exists already"):
        fuse([Source(path)], path)
    with pytest.raises(QwenlabError, match="end the name in .safetensors"):
        fuse([Source(path)], tmp_path / "a.bin")
    with pytest.raises(QwenlabError, match="at least one"):
        fuse([], tmp_path / "b.safetensors")


def test_sources_are_read_from_words(tmp_path):
    assert parse_source("a/b.safetensors:0.8") == Source(files.Path("a/b.safetensors"), 0.8)
    assert parse_source("a.safetensors") == Source(files.Path("a.safetensors"))
    assert parse_source("a.safetensors:-1").weight == -1
    (tmp_path / "odd:name.safetensors").touch()
    assert parse_source(str(tmp_path / "odd:name.safetensors")).weight == 1
    with pytest.raises(QwenlabError, match="a full-width colon ：; write FILE.safetensors:0.8"):
        parse_source("a.safetensors：0.8")
    with pytest.raises(QwenlabError, match="'heavy' is no weight"):
        parse_source("a.safetensors:heavy")


@pytest.mark.parametrize("kind", KINDS)
def test_the_core_space_loses_nothing(kind):
    pairs = factors(kind, 48, 40, 5, 3)
    assert relative(product(core_space(pairs, sum)), dense(pairs)) < 1e-5
    pair, kept = compress(concatenate(pairs), 40)
    assert relative(product(pair), dense(pairs)) < 1e-6 and kept == pytest.approx(1)


def test_a_sum_that_cancels_is_zero():
    (a, b), _ = factors("random", 20, 30, 4, 0)
    pair, kept = compress(concatenate([(a, b), (a, -b)]), 3)
    assert product(pair).norm() < 1e-5 * product((a, b)).norm()
    assert 0 <= kept <= 1
    pair, kept = compress((torch.zeros(4, 30), torch.zeros(20, 4)), 3)
    assert kept == 1 and product(pair).norm() == 0


def test_the_articles_average_holds_terms_of_no_lora():
    pairs = [(a, 0.5 * b) for a, b in factors("random", 256, 256, 8, 1)]
    assert cross_terms(pairs) == pytest.approx(0.5**0.5, abs=0.05)
    same = [(a, 0.5 * b) for a, b in factors("duplicated", 256, 256, 8, 1)]
    assert cross_terms(same) < 1e-5, "right only for a LoRA and itself"
    a, b = average_factors([pairs[0], (pairs[1][0][:3], pairs[1][1][:, :3])])
    assert a.shape == (8, 256) and b.shape == (256, 8)


def test_ties_drops_the_small_and_the_outvoted():
    updates = [torch.tensor([5.0, -4.0, 0.1, 3.0]), torch.tensor([-2.0, -3.0, 0.2, 0.1])]
    assert elect(updates, 0.5).tolist() == [5.0, -7.0, 0.0, 0.0]
    assert elect(updates, 1.0).tolist() == pytest.approx([5.0, -7.0, 0.3, 3.1])
    pairs = factors("random", 30, 20, 4, 2)
    assert relative(product(ties(pairs, 20, 1.0)), elect([product(p) for p in pairs], 1.0)) < 1e-5
    (a, b), _ = pairs
    assert relative(product(knots([(a, b)], 1.0)), product((a, b))) < 1e-5


def test_dare_keeps_the_expectation():
    update = torch.randn(40, 40, generator=torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(1)
    mean = sum(drop_and_rescale(update, 0.5, rng) for _ in range(800)) / 800
    assert relative(mean, update) < 0.06
    assert (drop_and_rescale(update, 0.5, rng) == 0).float().mean() == pytest.approx(0.5, abs=0.05)
    pairs = factors("random", 30, 20, 4, 2)
    assert relative(product(dare(pairs, 20, drop=0.0)), dense(pairs)) < 1e-5
    assert torch.equal(dare(pairs, 3)[0], dare(pairs, 3)[0]), "the seed decides"


def test_the_first_of_orthogonal_loras_acts_alone_on_what_it_reads():
    (a1, b1), (a2, b2) = factors("random", 30, 40, 4, 2)
    merged = product(orthogonal([(a1, b1), (a2, b2)])).float()
    inputs = a1.mT @ torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    assert relative(merged @ inputs, b1 @ a1 @ inputs) < 1e-5
    outside = torch.linalg.svd(a1, full_matrices=True).Vh[4:].mT
    assert relative(merged @ outside, (b2 @ a2) @ outside) < 1e-5


def test_large_updates_are_factored_nearly_optimally():
    rng = torch.Generator().manual_seed(0)
    pairs = [(torch.randn(6, 1100, generator=rng), torch.randn(1040, 6, generator=rng)) for _ in range(2)]
    singular = torch.linalg.svdvals(elect([product(p).float() for p in pairs], 1.0))
    found = product(ties(pairs, 8, 1.0))
    error = (found - elect([product(p) for p in pairs], 1.0)).norm()
    assert error == pytest.approx(singular[8:].norm().item(), rel=0.01)


def test_files_are_whole_or_absent(tmp_path):
    values = {"x": torch.arange(6.0).reshape(2, 3), "y": torch.ones(1, 2, dtype=torch.bfloat16)}
    values["z"] = torch.arange(10.0).as_strided((4, 1), (1, 6))  # a column with an odd stride, as an SVD leaves it
    path = write_tensors(tmp_path / "a.safetensors", values, iter(values.items()), {"format": "pt", "词": "值"})
    found = load_file(path)
    assert all(torch.equal(found[name], values[name]) for name in values)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "词": "值"}

    def broken():
        yield "x", values["x"]
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_tensors(tmp_path / "b.safetensors", values, broken(), {})
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_command_fuses_and_reports(tmp_path):
    a, b = (write_lora(tmp_path / f"{k}.safetensors", seed=k) for k in range(2))
    out = tmp_path / "c.safetensors"
    arguments = ["fuse", f"{a}:0.8", f"{b}:0.4", "--rank", "3", "--method", "svd", "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "4 layers of 2 files" in text and "rank 3 keeps" in text and out.is_file()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "exists already" in " ".join(again.output.split())


def trained_like(pipeline, path, rank, alpha, seed):
    """A LoRA of the pipeline's transformer, with factors that change its pictures, saved as training saves it."""
    parameters = inject_lora(pipeline.transformer, target_modules(["attention+mlp"]), rank=rank, alpha=alpha, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=rng))
    save_lora(pipeline, path)
    remove_lora(pipeline)
    return path


def test_the_stock_pipeline_draws_the_same_with_one_file_as_with_two_adapters(pipeline, tmp_path):
    names = ("fox", "ink")
    paths = [trained_like(pipeline, tmp_path / f"{n}.safetensors", 3 + k, 6.0 + k, k) for k, n in enumerate(names)]

    def pictures():
        return np.stack(generate(pipeline, ["1女孩, 挥手", "1女孩"], [5, 6], steps=4, guidance=2.0)).astype(int)

    base = pictures()
    for path in paths:
        pipeline.load_lora_weights(tmp_path, weight_name=path.name, adapter_name=path.stem)
    pipeline.set_adapters(list(names), [0.8, -0.5])
    wanted = pictures()
    pipeline.unload_lora_weights()
    sources = [Source(paths[0], 0.8), Source(paths[1], -0.5)]
    difference = {}
    for name, rank in (("sum", None), ("whole", 7), ("small", 1)):
        load_lora(pipeline, fuse(sources, tmp_path / f"{name}.safetensors", rank=rank).path)
        difference[name] = np.abs(pictures() - wanted).max()
        remove_lora(pipeline)
    assert np.abs(base - wanted).max() > 10
    assert difference["sum"] <= 1 and difference["whole"] <= 1 < difference["small"]


def test_the_speed_benchmark_compares_equal_results(tmp_path, monkeypatch):
    from benchmarks.fusion import speed as fusion_speed

    words = ["x", "--width", "192", "--blocks", "2", "--rank", "4", "--out", str(tmp_path / "r")]
    monkeypatch.setattr("sys.argv", words)
    fusion_speed.main()
    result = json.loads((tmp_path / "r").read_text())
    for shape in ("192 x 192", "192 x 768", "768 x 192"):
        assert result[shape]["difference"] < 1e-5
    assert result["files"]["layers"] == 28 and result["files"]["anonymous_gib"] > 0


def test_adapters_take_turns_or_share_every_step(pipeline, tmp_path):
    names = ("fox", "ink")
    for path in [trained_like(pipeline, tmp_path / f"{n}.safetensors", 3, 6.0, k) for k, n in enumerate(names)]:
        pipeline.load_lora_weights(tmp_path, weight_name=path.name, adapter_name=path.stem)

    def picture():
        return np.asarray(generate(pipeline, "1女孩, 挥手", 5, steps=4, guidance=2.0)).astype(int)

    alone = {}
    for name in names:
        pipeline.set_adapters([name], [0.8])
        alone[name] = picture()
    pipeline.set_adapters(list(names), [0.8, 0.8])
    joined, both = picture(), {"fox": 0.8, "ink": 0.8}
    for way in (switching, composing):
        with way(pipeline, {"fox": 0.8}):
            assert np.abs(picture() - alone["fox"]).max() <= 1
        with way(pipeline, both):
            mixed, again = picture(), picture()
        assert np.array_equal(mixed, again), "every picture starts with the first adapter"
        assert min(np.abs(mixed - other).max() for other in (alone["fox"], alone["ink"], joined)) > 1
        assert np.abs(picture() - joined).max() <= 1, "afterwards both are active again"
        with pytest.raises(ValueError, match="at least one"), way(pipeline, {}):
            pass
    with switching(pipeline, both, every=4):
        assert np.abs(picture() - alone["fox"]).max() <= 1, "the first four steps are all there are"
