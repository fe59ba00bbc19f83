"""LoRA files in another rank."""

import pytest
import torch
from typer.testing import CliRunner

from qwenlab.cli import app
from qwenlab.errors import QwenlabError
from qwenlab.lora.rank import grow, rank_for
from qwenlab.lora.resizing import resize
from tests.lora.lora_factors import factors, relative, updates, write_lora


def test_a_file_shrinks_optimally_and_grows_without_change(tmp_path):
    path = write_lora(tmp_path / "a.safetensors", 6, 1, alpha=3.0, kind="decaying")
    whole = updates(path)
    small = resize(path, tmp_path / "small.safetensors", rank=2)
    for name, update in updates(small.path).items():
        singular = torch.linalg.svdvals(whole[name])
        assert (update - whole[name]).norm() == pytest.approx(singular[2:].norm().item(), rel=1e-5)
        assert small.kept[name] == pytest.approx((singular[:2].norm() / singular.norm()).item() ** 2, abs=1e-6)
    large = resize(path, tmp_path / "large.safetensors", rank=9)
    assert set(large.ranks.values()) == {9} and set(large.kept.values()) == {1.0}
    for name, update in updates(large.path).items():
        assert relative(update, whole[name]) < 1e-6
    some = resize(path, tmp_path / "some.safetensors", energy=0.95)
    for name, rank in some.ranks.items():
        energy = torch.linalg.svdvals(whole[name])[:6].square().cumsum(0) / whole[name].square().sum()
        assert energy[rank - 1] >= 0.95 and (rank == 1 or energy[rank - 2] < 0.95)
        assert some.kept[name] >= 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either --rank"),
        ({"rank": 2, "energy": 0.9}, "either --rank"),
        ({"rank": 0}, "--rank 0: must"),
        ({"energy": 1.5}, "--energy 1.5: must"),
        ({"rank": 2, "dtype": "int8"}, "--dtype 'int8'"),
    ],
)
def test_wrong_sizes_are_one_line(options, message, tmp_path):
    with pytest.raises(QwenlabError, match=message):
        resize(write_lora(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", **options)


def test_the_resize_command_reports(tmp_path):
    path = write_lora(tmp_path / "a.safetensors", 6, 1, kind="decaying")
    result = CliRunner().invoke(app, ["resize", str(path), "--energy", "0.9", "--out", str(tmp_path / "b.safetensors")])
    assert result.exit_code == 0 and "4 layers of rank" in " ".join(result.output.split()), result.output


def test_growing_draws_new_rows_as_for_a_new_lora():
    (a, b), _ = factors("random", 300, 400, 4, 0)
    grown_a, grown_b = grow((a, b), 40, seed=3)
    assert torch.equal(grown_b @ grown_a, torch.nn.functional.pad(b, (0, 36)) @ grown_a)
    assert grown_a[4:].abs().max() <= 1 / 20 and grown_a[4:].std() == pytest.approx(1 / 20 / 3**0.5, rel=0.02)
    assert not torch.equal(grow((a, b), 40, seed=4)[0], grown_a)
    with pytest.raises(ValueError, match="less than 4"):
        grow((a, b), 3)
    assert rank_for((torch.zeros(3, 8), torch.zeros(9, 3)), 0.9) == 1
