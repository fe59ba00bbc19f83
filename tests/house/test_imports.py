"""What a command imports: a header needs no torch, arithmetic on factors no diffusers, drawing no compiler."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qwenlab.files import REPOSITORY

FOX, POP = (str(REPOSITORY / "lora_library" / f"{name}.safetensors") for name in ("fox", "pop"))
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "scipy", "pandas", "matplotlib", "tensorflow")


def imported_by(code: str) -> set[str]:
    """The modules that a fresh process has imported when `code` is done."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    code = f"import sys\ntry:\n{_indented(code)}\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
    code += "print('MODULES', *sorted(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=REPOSITORY
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.rpartition("MODULES ")[2].split())


def _indented(code: str) -> str:
    return "\n".join(f"    {line}" for line in code.splitlines())


def command(*arguments: str) -> str:
    return f"sys.argv = {['qwenlab', *arguments]!r}\nfrom qwenlab.cli import main\nmain()"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["generate", "--help"], ["doctor", FOX], ["claims"], ["memory", "--gpu", "24"]]
)
def test_reading_needs_none_of_the_large_libraries(arguments):
    assert not set(HEAVY) & imported_by(command(*arguments))


def test_refusals_are_answered_before_torch_is_imported(tmp_path: Path):
    for arguments in (
        ["generate", "--prompt", "a", "--out", "a.png", "--lora", "a.safetensors:nan"],
        ["generate", "--prompt", "a", "--out", "a.png", "--size", "100"],
        ["fuse", "a.safetensors:inf", "--out", "b.safetensors"],
    ):
        code = f"try:\n{_indented(command(*arguments))}\nexcept SystemExit as end:\n    assert end.code == 2"
        assert "torch" not in imported_by(code)


def test_arithmetic_on_factors_needs_torch_alone(tmp_path: Path):
    fuse = imported_by(command("fuse", FOX, POP, "--out", str(tmp_path / "both.safetensors")))
    resize = imported_by(command("resize", FOX, "--rank", "4", "--out", str(tmp_path / "small.safetensors")))
    for modules in (fuse, resize):
        assert "torch" in modules and not (set(HEAVY) - {"torch"}) & modules
        assert "torch._dynamo" not in modules


def test_drawing_imports_no_compiler_and_leaves_it_usable():
    modules = imported_by("import qwenlab\nqwenlab.load_pipeline('micro')")
    assert {"diffusers", "bitsandbytes"} <= modules
    assert "torch._inductor.compile_fx" not in modules, "the compiler"
    code = """
import os, torch, qwenlab
qwenlab.load_pipeline("micro")
assert "TORCHDYNAMO_DISABLE" not in os.environ
seen = []
def backend(graph, inputs):
    seen.append(graph)
    return graph.forward
assert torch.compile(lambda x: x + 1, backend=backend)(torch.ones(2)).sum() == 4
assert seen, "torch.compile compiles"
"""
    imported_by(code)


def test_a_switch_that_was_set_stays_set():
    code = "import os\nos.environ['TORCHDYNAMO_DISABLE'] = '0'\nimport qwenlab\nqwenlab.load_pipeline('micro')\n"
    imported_by(code + "assert os.environ['TORCHDYNAMO_DISABLE'] == '0'")
