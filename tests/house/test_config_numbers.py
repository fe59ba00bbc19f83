"""Numbers of a configuration that are out of every sensible range, refused while it is read."""

import subprocess
import sys

import pytest

from qwenlab.config import config_from_mapping
from qwenlab.errors import QwenlabError


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("rank", 10**9, "at most 4096"),
        ("text_encoder_rank", 10**9, "at most 4096"),
        ("rank_schedule", {2: 10**9}, "rank from 1 to 4096"),
        ("resolution", 16 * 10**6, "at most 4096"),
        ("batch_size_per_gpu", 10**9, "at most 4096"),
        ("gradient_accumulation_steps", 10**9, "at most 4096"),
        ("caption_orders", 10**9, "at most 10000"),
        ("modulation_timesteps", 10**9, "at most 10000"),
        ("max_train_steps", 10**12, "at most 100000000"),
        ("learning_rate", 1e30, "at most 10.0"),
        ("learning_rate", float("nan"), "learning_rate"),
        ("preview_steps", 10**6, "at most 1000"),
        ("guidance", -5.0, "0 or more"),
        ("guidance", 1e6, "at most 100.0"),
        ("guidance", float("inf"), "guidance"),
        ("alpha", float("inf"), "alpha"),
        ("prior_weight", float("nan"), "prior_weight"),
        ("seed", 2**70, "seed"),
    ],
)
def test_a_number_out_of_range(name, value, match):
    with pytest.raises(QwenlabError, match=match) as caught:
        config_from_mapping({name: value})
    assert str(caught.value).startswith(f"{name}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", [0, 1])
def test_previews_of_one_step_are_black(steps):
    settings = {"preview_prompts": ["1女孩"], "preview_steps": steps}
    with pytest.raises(QwenlabError, match=f"preview_steps: {steps} must be 2 or more"):
        config_from_mapping(settings | {"preview_every_n_steps": 5})
    assert config_from_mapping(settings).preview_steps == steps, "nothing is drawn"


def test_a_wrong_number_is_answered_without_torch(tmp_path):
    (tmp_path / "a.yaml").write_text("rank: 1000000000\n")
    code = f"""
import sys
sys.argv = ["qwenlab", "train", {str(tmp_path / "a.yaml")!r}]
from qwenlab.cli import main
try:
    main()
except SystemExit as end:
    print(end.code, "torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "2 False\n" and result.stderr.count("\n") == 1, result.stderr
    assert "rank: 1000000000 must be at most 4096" in result.stderr
