"""The machine report: its marks, and what it says when something is missing."""

from types import SimpleNamespace

from qwenlab import machine
from qwenlab.machine import GIB, Check, check_machine, report


def test_every_failure_names_a_remedy_and_essentials_pass():
    checks = check_machine()
    assert all(check.remedy for check in checks if check.ok is False)
    assert any(check.label.startswith("Python 3.") and check.ok for check in checks)
    assert any(check.label.startswith("torch ") and check.ok for check in checks)


def test_report_has_one_marked_line_for_each_check():
    text = report([Check(True, "a"), Check(False, "b", "do c"), Check(None, "d")])
    assert text.splitlines() == ["[OK]   a", "[FAIL] b -> do c", "[--]   d"]


def test_missing_package_and_little_memory(monkeypatch):
    assert machine._package("no-such-package").ok is False
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: SimpleNamespace(available=1 * GIB, total=8 * GIB))
    check = machine._memory()
    assert check.ok is False and "1.0 GiB free of 8.0" in check.label


def test_gpu_line_says_which_precisions_fit(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="Card", total_memory=24 * GIB)
    )
    lines = [str(check) for check in machine._gpu_and_abilities()]
    assert "Card, 24.0 GiB" in lines[0]
    assert "qwenlab memory --gpu 24" in lines[-1]
    assert "int8, nf4" in lines[-1] and "bf16" not in lines[-1] and "predicted" in lines[-1]


def test_micro_weights_are_named_part_by_part(monkeypatch, tmp_path):
    weights = tmp_path / "micro"
    monkeypatch.setattr(machine, "MICRO_WEIGHTS", weights)
    assert machine._shipped_files().ok is False
    for part in ("vae", "text_encoder", "transformer"):
        (weights / part).mkdir(parents=True)
    (weights / "vae" / "a.safetensors").write_bytes(b"x")
    partly = machine._shipped_files()
    assert partly.ok is None and "text_encoder, transformer" in partly.label and "pretrain" in partly.remedy
    for part in ("text_encoder", "transformer"):
        (weights / part / "a.safetensors").write_bytes(b"x")
    assert machine._shipped_files().ok is True
