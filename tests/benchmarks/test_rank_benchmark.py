"""What rank buys, in miniature: two steps, rows that are kept; every method trains a copy and leaves the base."""

import json
import sys

import pytest
import torch

from benchmarks.rank import ranks
from qwenlab.config import TrainConfig
from qwenlab.data.dataset import read_dataset
from qwenlab.lab.adapters import LORA_PLUS_RATIO, METHODS, spare_transformer, train_adapter
from qwenlab.training import encode_dataset
from tests.tiny import SIZE


def test_rows_are_kept_and_compared_seed_by_seed(monkeypatch, tmp_path, pipeline):
    monkeypatch.setattr(ranks, "load_pipeline", lambda model: pipeline)
    monkeypatch.setattr(ranks, "RANKS", (1, 8))
    monkeypatch.setattr(ranks, "RATES", dict.fromkeys(ranks.RATES, (1e-3, 3e-3)))
    monkeypatch.setattr(ranks, "HELD_OUT", 2)
    work, out = tmp_path / "work", tmp_path / "out.json"
    arguments = ["--steps", 2, "--seeds", 0, 1, "--work", work, "--out", out]
    monkeypatch.setattr(sys, "argv", ["ranks", *map(str, arguments)])
    ranks.main()
    rows = sorted(work.glob("*.json"))
    assert len(rows) == 2 * len(METHODS) + 2 + 2 * (1 + 2 + len(METHODS) - 1), (
        "tuning at two rates, then every row twice"
    )
    before = [path.stat().st_mtime_ns for path in rows]
    ranks.main()
    assert [path.stat().st_mtime_ns for path in rows] == before, "nothing is trained twice"
    stored = json.loads(out.read_text())
    assert stored["share"]["full"]["value"] == 1 and set(stored["trained_minus_cut"]) == {"1", "8"}
    difference = stored["share"]["lora 8"]["value"] - stored["share"]["full, cut to 8"]["value"]
    assert stored["trained_minus_cut"]["8"]["value"] == pytest.approx(difference)
    assert set(stored["minus_lora"]) == set(METHODS) - {"lora"}
    assert stored["made_with"]["config"]["seeds"] == [0, 1]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_a_copy_and_leaves_the_base(method, pipeline, dataset_folder):
    config = TrainConfig(resolution=SIZE, batch_size_per_gpu=2, max_train_steps=2, warmup_steps=0, rank=2,
                         learning_rate=1e-3, apply_to=["attention-4"], lr_scheduler="constant")  # fmt: skip
    data = encode_dataset(pipeline, read_dataset(dataset_folder), config)
    base, before = pipeline.transformer, [p.clone() for p in pipeline.transformer.parameters()]
    with spare_transformer(pipeline):
        run = train_adapter(pipeline, data, config, method)
        trained = dict(pipeline.transformer.named_parameters())
        b = max(value.abs().max().item() for name, value in trained.items() if "lora_B" in name)
        assert run.parameters == sum(p.numel() for p in trained.values() if p.requires_grad) > 0
        assert any("magnitude" in name for name in trained) == (method == "dora")
    assert pipeline.transformer is base
    assert all(torch.equal(p, q) for p, q in zip(base.parameters(), before, strict=True))
    if method in ("lora", "lora+"):  # Adam's two first steps are of the size of the rate
        rate = 1e-3 * (LORA_PLUS_RATIO if method == "lora+" else 1)
        assert b == pytest.approx(2 * rate, rel=0.1)
