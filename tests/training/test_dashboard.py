"""The dashboard shows what a run tells it, live and as a still."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from qwenlab.config import TrainConfig
from qwenlab.training import Dashboard, train_lora
from tests.tiny import SIZE


@pytest.fixture
def config(dataset_folder, tmp_path) -> TrainConfig:
    rng = np.random.default_rng(0)
    for path in (dataset_folder / "images").iterdir():  # near duplicates would not be split
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).resize((SIZE, SIZE)).save(path)
    return TrainConfig(
        resolution=SIZE, dataset=str(dataset_folder), output_dir=str(tmp_path / "run"), max_train_steps=4,
        batch_size_per_gpu=2, learning_rate=1e-2, rank=4, validation_share=0.3, validate_every_n_steps=2,
        preview_prompts=["1女孩", "1男孩"], preview_every_n_steps=2, preview_steps=2,
    )  # fmt: skip


def test_the_dashboard_collects_a_run_and_draws_it(pipeline, config):
    dashboard = Dashboard(refresh_seconds=0)
    line, curves, rows = dashboard.widget.children
    result = train_lora(pipeline, config, progress=False, observers=[dashboard])
    assert dashboard.losses == result.losses and dashboard.steps == [1, 2, 3, 4]
    assert dashboard.validation == result.validation and dashboard.best_step == result.best_step
    assert [path for paths in dashboard.previews.values() for path in paths] == result.previews
    assert line.value.startswith("step 4 · loss")
    assert Image.open(io.BytesIO(curves.value)).width == 800
    base, latest = (row.children for row in rows.children)
    assert [base[0].value, latest[0].value] == ["base", "step 4"] and len(base) == len(latest) == 3
    assert base[1].value == result.previews[0].read_bytes() and latest[1].value == result.previews[4].read_bytes()


def test_a_still_needs_no_widget_and_names_the_best_step(pipeline, config):
    dashboard = Dashboard()
    result = train_lora(pipeline, config, progress=False, observers=[dashboard])
    picture = dashboard.picture()
    assert f"lowest after step {result.best_step}" in picture.alt and "over 4 steps" in picture.alt
    assert len(dashboard.figure().axes) == 2


def test_without_validation_there_is_one_diagram(pipeline, config):
    dashboard = Dashboard()
    plain = replace(config, validation_share=0.0, validate_every_n_steps=0, preview_every_n_steps=0)
    train_lora(pipeline, plain, progress=False, observers=[dashboard])
    assert len(dashboard.figure().axes) == 1 and dashboard.best_step is None
    assert "held-out" not in dashboard.picture().alt
