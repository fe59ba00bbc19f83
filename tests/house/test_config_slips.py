"""Slips in configurations whose cause lies beside the message of the YAML parser, or that YAML reads in silence."""

import os

import pytest

from qwenlab.config import read_config
from qwenlab.errors import QwenlabError


def refused(path, content):
    path.write_text(content, encoding="utf-8")
    with pytest.raises(QwenlabError) as caught:
        read_config(path)
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(
    "content", ["rank: 010", "seed: 007", "seed: -012", "lora:\n  rank: 0_20", "learning_rate: 010"]
)
def test_numbers_that_yaml_reads_as_octal(tmp_path, content):
    assert "0 in front makes it octal" in refused(tmp_path / "a.yaml", content)


@pytest.mark.parametrize("content", ["max_train_steps: 1:30", "max_train_steps: 10:00:00", "learning_rate: 1:30.5"])
def test_numbers_to_base_60(tmp_path, content):
    assert "a number to base 60" in refused(tmp_path / "a.yaml", content)


@pytest.mark.parametrize("content, rank", [("0x10", 16), ("1_6", 16), ("+16", 16), ("!!int '16'", 16)])
def test_plain_numbers_stay(tmp_path, content, rank):
    path = tmp_path / "a.yaml"
    path.write_text(f"rank: {content}\nseed: 0\nlearning_rate: 1e-4\ndropout: 0.05", encoding="utf-8")
    config = read_config(path)
    assert (config.rank, config.seed, config.learning_rate, config.dropout) == (rank, 0, 1e-4, 0.05)


@pytest.mark.parametrize(
    "content, cause",
    [
        ('dataset: "C:\\new\\table"', "holds a control character; .*a backslash in double quotes"),
        ('dataset: "C:\\data"', "a backslash in double quotes"),
        ('dataset: "a\\x1b[31mb"', "holds a control character"),
        ("rank:\t8", "line 1 has a tab: write a space"),
        ("dataset: 1女孩, 背景: 花园", "a second colon and space: put the text into quotes"),
        ("learning_rate: 1e−4", "a dash −: write -"),
        ("preview_prompts:\n– 1女孩", "a dash –: write -"),
        ("r\u0430nk: 8", "no letter of a setting"),
        ("seed: 08", "write it without the 0 in front"),
        ("dataset: 2024", "put it into quotes"),
        ("output_dir: 2026-12-01", "put it into quotes"),
        ("optimizer: no", "put it into quotes"),
    ],
)
def test_the_cause_is_named(tmp_path, content, cause):
    message = refused(tmp_path / "a.yaml", content)
    for part in cause.split(".*"):
        assert part in message


@pytest.mark.parametrize(
    "content, what",
    [
        ('{"file_name": "a.png", "text": "x"}\n{"file_name": "b.png", "text": "y"}', "a captions file"),
        ('{"peft_type": "LORA", "r": 8}', "a PEFT adapter"),
        ("compute_environment: LOCAL_MACHINE\nmixed_precision: bf16", "accelerate launch"),
        ("job: extension\nconfig:\n  name: x", "ai-toolkit"),
        ('[model_arguments]\npretrained_model_name_or_path = "x"', "kohya"),
        ('{\n "cells": [],\n "metadata": {},\n "nbformat": 4\n}', "a notebook"),
        ('{\n  "_class_name": "QwenImagePipeline"\n}', "diffusers"),
    ],
)
def test_files_of_other_programs(tmp_path, content, what):
    assert what in refused(tmp_path / "a.yaml", content)


def test_names_that_lead_to_no_file(tmp_path):
    os.symlink("nowhere", tmp_path / "gone.yaml")
    os.symlink("loop.yaml", tmp_path / "loop.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    causes = {
        "gone.yaml": "a link that leads to no file",
        "loop.yaml": "a link that leads to no file",
        "pipe.yaml": "is a pipe or a device",
        "x" * 300: "too long for the name of a file",
        "a\0b": "no file can have",
    }
    for name, cause in causes.items():
        with pytest.raises(QwenlabError, match=cause):
            read_config(tmp_path / name)


def test_utf_32_without_a_mark(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes("rank: 8\n".encode("utf-32-le"))
    with pytest.raises(QwenlabError, match="not UTF-8, reads as UTF-32"):
        read_config(path)
