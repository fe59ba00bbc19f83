"""The YAML configuration: every mistake is one line that names the file and the nearest valid choice."""

from pathlib import Path

import pytest

from qwenlab.config import CHOICES, TrainConfig, config_from_mapping, read_config
from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY
from qwenlab.lora.targets import TARGETS
from qwenlab.model.flow import SIGMA_SAMPLING

CONFIGS = REPOSITORY / "configs"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_shipped_configurations_are_valid_and_train_these_layers():
    layers = {path.stem: read_config(path).apply_to for path in CONFIGS.glob("*_lora.yaml")}
    assert layers == {"micro_lora": ["attention+mlp", "modulation"], "qwen_image_lora": ["attention+mlp"]}


def test_sections_only_group_keys(tmp_path):
    nested = write(tmp_path, "model:\n  base: micro\ntraining:\n  max_train_steps: 5\nlora:\n  rank: 4\nseed: 3\n")
    flat = config_from_mapping({"base": "micro", "max_train_steps": 5, "rank": 4, "seed": 3})
    assert read_config(nested) == flat == TrainConfig(max_train_steps=5, rank=4, seed=3)


def test_numbers_as_people_write_them(tmp_path):
    # PyYAML takes 8e-6 for a text because it has no dot.
    config = read_config(write(tmp_path, "learning_rate: 8e-6\nalpha: 16\napply_to: mlp\n"))
    assert config.learning_rate == 8e-6 and config.alpha == 16.0 and config.apply_to == ["mlp"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("training:\n  learning_rte: 1e-4", "learning_rte: unknown key; did you mean 'learning_rate'?"),
        ("loar:\n  rank: 4", "loar: unknown key; did you mean 'lora'?"),
        ("lr_scheduler: cosine_with_warmup", "lr_scheduler: 'cosine_with_warmup' is not one of cosine, "),
        ("apply_to: [attn, ff]", "apply_to: 'attn' is not one of attention-4, "),
        ("optimizer: adamw8bit", "did you mean 'adamw_8bit'?"),
        ("lr_scheduler: cosine_with_warmup", "; write cosine: warmup_steps come before any schedule"),
        ("apply_to: [attn, ff]", "modulation; write attention-8, the attention of both streams"),
        ("apply_to: [attention-8, ff]", "modulation; write mlp"),
        ("rank: 4.5", "rank: 4.5 must be a whole number"),
        ("rank: true", "rank: True must be a whole number"),
        ("rank: 0", "rank: 0 must be greater than 0"),
        ("learning_rate: fast", "learning_rate: 'fast' must be a number"),
        ("learning_rate: .nan", "learning_rate: nan must be a number"),
        ("gradient_checkpointing: 1", "gradient_checkpointing: 1 must be true or false"),
        ("base: 3", "base: 3 must be a text"),
        ("preview_prompts: [1, 2]", "preview_prompts: [1, 2] must be a list of texts"),
        ("dropout: 1.0", "dropout: 1.0 must be at least 0 and less than 1"),
        ("resolution: 1000", "resolution: 1000 is no multiple of 16"),
        (
            "warmup_steps: 600\nmax_train_steps: 600",
            "warmup_steps: 600 must be less than max_train_steps (600)",
        ),
        ("preview_every_n_steps: 5", "preview_every_n_steps: needs preview_prompts"),
        ("validate_every_n_steps: 5", "validate_every_n_steps: needs validation_share"),
        ("validation_share: 1", "validation_share: 1.0 must be at least 0 and less than 1"),
        ("resize_mode: bucket", "resize_mode: 'bucket' is not one of letterbox, buckets; did you mean 'buckets'?"),
        ("data:\n  caption_orders: 0", "caption_orders: 0 must be greater than 0"),
        ("rank: 4\nlora:\n  rank: 8", "rank: is set twice; delete one"),
        ("lora: 8", "lora: is a section; indent its settings below it"),
        ("rank: [", "line 1: not YAML"),
        ("", "holds no settings"),
        ("- rank", "holds no settings"),
    ],
)
def test_mistakes_are_one_line(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(QwenlabError) as caught:
        read_config(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_choices_are_what_the_code_knows():
    assert CHOICES["apply_to"] == tuple(TARGETS) and CHOICES["timestep_sampling"] == SIGMA_SAMPLING


def test_missing_file(tmp_path):
    with pytest.raises(QwenlabError, match="no such configuration file"):
        read_config(tmp_path / "absent.yaml")


def test_hash_follows_what_changes_the_weights():
    base = TrainConfig().hash()
    assert TrainConfig(output_dir="elsewhere", save_every_n_steps=5).hash() == base
    assert TrainConfig(cache_dir="shared", free_text_encoder=True).hash() == base
    changes = ({"seed": 1}, {"random_flip": True}, {"resize_mode": "buckets"}, {"caption_orders": 2})
    assert len({TrainConfig(**change).hash() for change in changes} | {base}) == 5


def test_settings_that_came_later_leave_the_hash_of_older_files():
    assert TrainConfig().hash() == "3e2c5965e09081f1", (
        "as before resize_mode, random_flip, caption_orders and validation_share"
    )
    assert config_from_mapping({"caption_orders": 1}).hash() == TrainConfig().hash()
