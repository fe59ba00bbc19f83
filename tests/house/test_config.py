"""The YAML configuration: every mistake is one line that names the file and the nearest valid choice."""

import random
from pathlib import Path

import pytest
import yaml

from qwenlab.config import CHOICES, SECTIONS, TrainConfig, config_from_mapping, read_config
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


@pytest.mark.parametrize(
    "text, message",
    [
        ("rank: 4\nseed: 1\nrank: 8", "rank: is set twice, on lines 1 and 3; delete one"),
        ('"rank": 4\nrank: 4', "rank: is set twice, on lines 1 and 2"),
        ("lora:\n  rank: 4\n  rank: 4", "rank: is set twice, on lines 2 and 3"),
        ("lora:\n  rank: 4\nseed: 1\nlora:\n  alpha: 4", "lora: the section stands twice, on lines 1 and 4; join them"),
        ("max_train_steps: 600\nrank_schedule: {267: 12, 267: 8}", "267: is set twice, on line 2"),
    ],
)
def test_repeated_keys_and_sections(tmp_path, text, message):
    assert message in refused(write(tmp_path, text))


def test_a_merge_may_be_overruled(tmp_path):
    config = read_config(write(tmp_path, "training: &t\n  seed: 3\ndata:\n  <<: {resolution: 64}\n  resolution: 128\n"))
    assert (config.seed, config.resolution) == (3, 128)


def refused(path) -> str:
    with pytest.raises(QwenlabError) as caught:
        read_config(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "text, cause",
    [
        ("rank：4", "line 1 has a full-width colon ： after 'rank': write 'rank: '"),
        ("base: micro\nlora:\n  rank：4\n  alpha: 4", "line 3 has a full-width colon ： after 'rank'"),
        ("base: micro\nrank:4\nseed: 1", "line 2 has no space after the colon of 'rank'"),
        ("rank = 4", "line 1 has an equals sign after 'rank'"),
        ("[lora]\nbase: micro", "line 1 has [lora] is a section of TOML"),
        ("lora:\n\trank: 4", "line 2 has a tab at the start"),
        ("lora:\n\u3000rank: 4", "line 2 has an invisible character, U+3000"),
        ("lora:\n\u00a0\u00a0rank: 4", "line 2 has an invisible character, U+00A0"),
        ("rank\u200b: 4", "did you mean 'rank'?; line 1 has an invisible character, U+200B"),
        ("base: “micro”", "stands in curly quotes"),
        ("base: micro\u00a0", "begins or ends with a space or an invisible sign"),
        ("base: micro ＃ the small one", "a full-width ＃ begins no comment"),
        ("apply_to: [mlp，modulation]", "line 1 has a full-width ，: write ,"),
        ("apply_to: ［mlp］", "line 1 has a full-width ［: write ["),
        ("seed: 1\nrank: １６", "line 2: rank: '１６' must be a whole number; line 2 has a full-width １: write 1"),
        ("ｒａｎｋ: 4", "did you mean 'rank'?; line 1 has a full-width ｒ: write r"),
        ('rank: "16"', "'16' must be a whole number; it is a text: leave out the quotes"),
        ("base: @micro", "a value that begins with @: put it into quotes"),
        (
            "preview_prompts:\n  - 1女孩, 背景: 花园",
            "a colon and a space make a key of a text: put the text into quotes",
        ),
        ("seed: " + "9" * 100, "must be a whole number up to 9223372036854775807"),
        ("learning_rate: " + "9" * 400, "must be a number"),
        ("seed: " + "9" * 5000, "a number of too many digits"),
        ("seed: 2020-13-45", "month must be in 1..12"),
        ("seed: !!bool x", "a value that does not fit its tag"),
        ("seed: !!python/object:os.system x", "could not determine a constructor"),
        ("[" * 1000, "nested too deeply"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nrank: [*b, *b]", "a: unknown key"),
        ("rank: &x [*x]", "must be a whole number"),
        ('"a\\nb": 1', "a b: unknown key"),
        ('trigger: "\\ud83d"', "holds half a character"),
        ("rank: 4\0", "line 1 has an invisible character, U+0000"),
        ("rank: 4\n---\nrank: 5", "line 2: not YAML"),
    ],
)
def test_the_sign_at_fault_is_named(tmp_path, text, cause):
    assert cause in refused(write(tmp_path, text))


@pytest.mark.parametrize(
    "data, cause",
    [
        ("trigger: 红色连衣裙女孩\n".encode("gbk"), "not UTF-8, reads as GB18030 (GBK); save it as UTF-8"),
        ("trigger: fée\nbase: à\n".encode("cp1252"), "not UTF-8, perhaps Windows-1252"),
        ("rank: 4\n".encode("utf-16"), "not UTF-8, reads as UTF-16"),
        (b"SQLite format 3\0", "is an SQLite database, no YAML configuration"),
        (b"PK\x03\x04", "is a ZIP archive"),
        (b"\x80\x04\x95\0", "is a Python pickle"),
        (b"\x90\0\0\0\0\0\0\0{}", "is a safetensors file"),
        (b"\x89PNG\r\n\x1a\n", "is a PNG picture"),
        (b"#" * 2_000_000, "more than 1024 KiB, no configuration"),
    ],
)
def test_files_of_another_kind_or_encoding(tmp_path, data, cause):
    path = tmp_path / "train.yaml"
    path.write_bytes(data)
    assert cause in refused(path)


def test_marks_and_line_ends_of_other_systems(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_bytes(b"\xef\xbb\xbflora:\r\n  rank: 4\r\nseed: 3\r")
    assert read_config(path) == TrainConfig(rank=4, seed=3)


def test_folders_in_place_of_a_configuration(tmp_path):
    assert "is a folder of pictures; write 'dataset: " in refused(REPOSITORY / "data_sample")
    assert "is a folder; give one of its files, such as " in refused(CONFIGS)
    assert "is a folder with weights" in refused(REPOSITORY / "lora_library")
    (tmp_path / "model_index.json").write_text("{}")
    assert f"is a folder with a model; write 'base: {tmp_path}'" in refused(tmp_path)
    assert "for a model of the Hub write 'base: Qwen/Qwen-Image'" in refused(Path("Qwen/Qwen-Image"))
    write(tmp_path, "rank: 4")
    assert f"did you mean {tmp_path / 'train.yaml'}?" in refused(tmp_path / "trian.yaml")


SIGNS = [
    ":",
    "：",
    " ",
    "\t",
    "\u3000",
    "\n",
    "\r",
    "\0",
    "#",
    "-",
    "[",
    "{",
    '"',
    "“",
    "&",
    "*",
    "!",
    "|",
    ">",
    "%",
    "@",
    "，",
    "\ufeff",
]


def mutated(text, rng):
    """A configuration after a slip of the fingers, or after another program saved it."""
    lines = text.split("\n")
    place = rng.randrange(len(lines))
    way = rng.randrange(8)
    if way == 0:
        at = rng.randrange(len(text))
        return (text[:at] + rng.choice(SIGNS) + text[at + rng.choice([0, 1]) :]).encode()
    if way == 1:
        at = rng.randrange(len(text))
        return (text[:at] + text[at + rng.randint(1, 20) :]).encode()
    if way == 2:  # a line again, elsewhere
        lines.insert(rng.randrange(len(lines)), lines[place])
    elif way == 3:
        lines[place] = " " * rng.randint(0, 3) + lines[place].lstrip()
    elif way == 4:
        lines[place] = lines[place].replace(
            *rng.choice([(": ", "："), (": ", ":"), (": ", " = "), ("e", "é"), ("1", "１")])
        )
    elif way == 5:
        data = bytearray(text.encode())
        data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)
    elif way == 6:
        return text.encode(rng.choice(["utf-16", "utf-8-sig", "gb18030", "utf-16-le"]))
    else:
        return rng.choice(["\r\n", "\r", "\n\n"]).join(lines).encode()
    return "\n".join(lines).encode()


def plainly_read(data):
    """The settings by PyYAML alone, flat; a key that stands twice keeps its last value."""
    flat = {}
    for key, value in yaml.safe_load(data.decode("utf-8-sig")).items():
        flat |= value if key in SECTIONS else {key: value}
    return config_from_mapping(flat)


def test_1000_mutated_configurations(tmp_path):
    rng = random.Random(20)
    texts = {p.read_text(encoding="utf-8"): read_config(p) for p in sorted(CONFIGS.glob("*.yaml"))}
    path = tmp_path / "train.yaml"
    outcomes = {"refused": 0, "the same": 0, "as written": 0}
    for number in range(1000):
        text = list(texts)[number % len(texts)]
        data = mutated(text, rng)
        path.write_bytes(data)
        try:
            config = read_config(path)
        except QwenlabError as error:
            outcomes["refused"] += 1
            assert str(error).startswith(f"{path}") and "\n" not in str(error), data
        else:
            same = config == texts[text]
            outcomes["the same" if same else "as written"] += 1
            assert same or config == plainly_read(data), data
    assert min(outcomes.values()) > 20, outcomes


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
