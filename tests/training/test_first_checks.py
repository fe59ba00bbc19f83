"""What stops a run is said before the first picture is encoded."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import qwenlab.data.caches
from qwenlab.config import config_from_mapping
from qwenlab.errors import QwenlabError
from qwenlab.training import runtime, train_lora
from tests.tiny import SIZE, tiny_pipeline

LAYERS = [
    f"transformer_blocks.{block}.attn.{name}" for block in (0, 1) for name in ("to_q", "to_k", "to_v", "to_out.0")
]


@pytest.fixture
def config(dataset_folder: Path):
    return config_from_mapping(
        {
            "dataset": str(dataset_folder), "output_dir": str(dataset_folder / "run"), "resolution": SIZE,
            "max_train_steps": 1, "rank": 2, "apply_to": ["attention-4"],
        }
    )  # fmt: skip


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """Receives a number for each picture and caption that is encoded."""
    seen: list[int] = []
    for name in ("encode_image", "encode_text"):
        stock = getattr(qwenlab.data.caches, name)
        monkeypatch.setattr(qwenlab.data.caches, name, lambda *args, stock=stock: (seen.append(1), stock(*args))[1])
    return seen


def lora(path: Path, layers=tuple(LAYERS), rank: int = 2, width: int = 32, prefix: str = "transformer.") -> Path:
    state = {}
    for layer in layers:
        state[f"{prefix}{layer}.lora_A.weight"] = torch.ones(rank, width)
        state[f"{prefix}{layer}.lora_B.weight"] = torch.ones(width, rank)
    save_file(state, path)
    return path


def refused(config, encoded: list[int], match: str) -> None:
    with pytest.raises(QwenlabError, match=match) as caught:
        train_lora(tiny_pipeline(), config, progress=False)
    assert "\n" not in str(caught.value)
    assert not encoded, "refused after pictures were encoded"


def test_a_good_run_does_encode(config, encoded, tmp_path):
    train_lora(tiny_pipeline(), replace(config, init_lora=str(lora(tmp_path / "a.safetensors"))), progress=False)
    assert len(encoded) == 9  # four pictures, their captions, the empty one


@pytest.mark.parametrize(
    "name",
    [
        "flahs", "", "Native", " native", "native\n", "sdpa", "_native_math_", "flash", "sage", "xformers", "_flash_3",
        "flash_hub", "_native_npu", "_native_flash", "flex",
    ],
)  # fmt: skip
def test_attention_backends_that_cannot_run_here(config, encoded, name):
    refused(replace(config, attention_backend=name), encoded, "attention_backend: ")


def test_a_kernel_that_mistakes_the_mask(config, encoded, monkeypatch):
    monkeypatch.setattr("qwenlab.model.attention_backends.padding_leak", lambda *args: 0.7)
    refused(config, encoded, "lets padding into attention")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"layers": LAYERS[:-1]}, "the file has no layer transformer_blocks.1.attn.to_out.0"),
        ({"layers": [*LAYERS, "transformer_blocks.0.attn.add_q_proj"]}, "apply_to does not name layer .*add_q_proj"),
        ({"layers": [name.replace("blocks.1", "blocks.7") for name in LAYERS]}, "the file has no layer"),
        ({"rank": 3}, "rank 3, here 2; set rank to the file's"),
        ({"width": 48}, r"of another model, \S+ is \(48, 48\) and here \(32, 32\)"),
        ({"layers": ["single_blocks.0.linear1"]}, "init_lora: "),
        ({"prefix": "vae."}, "init_lora: "),
    ],
)
def test_a_lora_from_which_training_cannot_go_on(config, encoded, tmp_path, change, match):
    path = lora(tmp_path / "a.safetensors", **change)
    refused(replace(config, init_lora=str(path)), encoded, match)


@pytest.mark.parametrize(
    "content", [None, b"", b"not a tensor in sight", b"\x80\x04K\x00.", b"PK\x03\x04 and so on", b"<html></html>"]
)
def test_what_is_no_lora_file(config, encoded, tmp_path, content):
    path = tmp_path / "a.safetensors"
    if content is not None:
        path.write_bytes(content)
    refused(replace(config, init_lora=str(path)), encoded, "init_lora: ")
    refused(replace(config, init_lora=str(tmp_path)), encoded, "init_lora: ")


@pytest.mark.parametrize(
    "name", ["https://example.org/a.safetensors", "~/nowhere.safetensors", "a\0b", "a" * 5000, "link", "pipe"]
)
def test_names_that_lead_to_no_lora_file(config, encoded, tmp_path, name):
    path = tmp_path / name
    if name == "link":
        path.symlink_to(path)
    elif name == "pipe":
        os.mkfifo(path)  # reading it would wait for ever
    refused(replace(config, init_lora=str(path) if name in ("link", "pipe") else name), encoded, "init_lora: ")


def test_a_lora_cut_short_or_of_another_kind(config, encoded, tmp_path):
    path = lora(tmp_path / "a.safetensors")
    whole, state = path.read_bytes(), load_file(path)
    path.write_bytes(whole[:-100])
    refused(replace(config, init_lora=str(path)), encoded, "init_lora: ")
    others = {
        "no pairs": {name: x for name, x in state.items() if "lora_A" in name},
        "swapped": {name: x.t().contiguous() for name, x in state.items()},
        "DoRA": state | {f"transformer.{name}.lora_magnitude_vector": torch.ones(32) for name in LAYERS},
        "LoKr": {
            f"transformer.{name}.lokr_{w}": torch.ones(n, n) for name in LAYERS for w, n in (("w1", 2), ("w2", 16))
        },
        "weights": {f"{name}.weight": torch.ones(32, 32) for name in LAYERS},
        "of the text encoder": {name.replace("transformer.", "text_encoder."): x for name, x in state.items()},
        "nothing": {},
    }
    for tensors in others.values():
        save_file(tensors, path)
        refused(replace(config, init_lora=str(path)), encoded, "init_lora: ")


def test_a_lora_with_nan(config, encoded, tmp_path):
    path = lora(tmp_path / "a.safetensors")
    state = load_file(path)
    state[f"transformer.{LAYERS[3]}.lora_B.weight"][0, 1] = float("inf")
    save_file(state, path)
    refused(replace(config, init_lora=str(path)), encoded, "holds NaN or infinity")


def test_a_missing_optimizer_package(config, encoded, monkeypatch):
    monkeypatch.setitem(runtime.OPTIMIZERS, "prodigy", ("no_such_package.optim", "Prodigy"))
    refused(replace(config, optimizer="prodigy"), encoded, "needs no_such_package; pip install")


def test_missing_keypoints_and_prior_pictures(config, encoded, tmp_path):
    from qwenlab.hands import hand_options

    hands = replace(config, augment_hands=True)
    with pytest.raises(QwenlabError, match="keypoints.jsonl"):
        train_lora(tiny_pipeline(), hands, progress=False, **hand_options(tiny_pipeline(), hands))
    assert not encoded
    refused(replace(config, prior_dataset=str(tmp_path / "none")), encoded, "no such dataset folder")


def test_captions_and_preview_prompts_that_are_too_long(config, encoded):
    refused(
        replace(config, preview_prompts=["1女孩" + "z" * 1100], preview_every_n_steps=1), encoded, "preview_prompts: "
    )
    captions = Path(config.dataset) / "captions.jsonl"
    captions.write_text(captions.read_text("utf-8").replace("blue", "blue" + "z" * 1100), "utf-8")
    refused(config, encoded, "img_2.png: caption: .* tokens, and Qwen-Image reads 1019")
