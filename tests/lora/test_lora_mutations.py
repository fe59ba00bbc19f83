"""A thousand damaged or changed LoRA headers: refused in one line, or read as before, or the change is named.

The same files show that the rules for diffusers say what its loader does, wherever they say anything.
"""

import json
import random
import string

import numpy as np
import pytest

from qwenlab.errors import QwenlabError
from qwenlab.lora.files import FORMATS, diagnose, fix, read_lora
from qwenlab.lora.files.header import TensorFile
from qwenlab.lora.files.readers import ask_diffusers
from qwenlab.lora.files.stock_rules import predict_diffusers
from tests.lora.lora_layouts import LAYOUTS, accounted, factors

BASES = (
    "transformer", "transformer metadata", "transformer alpha", "diffusion_model alpha", "diffusion_model bf16 odd",
    "lora_unet alpha", "bare", "bare default", "lycoris alpha", "lora_transformer", "peft",
)  # fmt: skip
COUNT = 1000
DTYPES = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "F8_E4M3",
    "F8_E5M2",
    "I64",
    "I8",
    "U8",
    "BOOL",
    "F4",
    "C64",
    "nonsense",
    3,
    None,
)
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8}
WORDS = (
    "lora_A", "lora_B", "transformer", "transformer_blocks", "attn", "to_q", "to_qkv", "weight", "alpha", "default",
    "0", "1", "59", "60", "999", "norm_q", "img_mlp", "net", "diff", "magnitude", "lokr_w1", "module", "é", "", ".",
    "single_transformer_blocks", "text_encoder", "bundle_emb", "optimizer", "lora_unet_",
)  # fmt: skip
CONFIGURATIONS = (
    "{", "[]", "null", '{"transformer.lora_alpha": null}', '{"transformer.r": 4}', '{"transformer.lora_alpha": 1e999}',
    '{"lora_alpha": 8}', '{"transformer.target_modules": 3}', '{"transformer.alpha_pattern": {"(": 2}}',
    '{"transformer.use_rslora": true, "transformer.r": 4}', '{"transformer.use_rslora": "yes"}', '{"transformer": {}}',
    '{"transformer.r": 4, "transformer.lora_alpha": 8}', '{"transformer.r": 4, "transformer.no_such_entry": null}',
)  # fmt: skip
ENTRIES = (
    ("modelspec.architecture", "flux-1-dev/lora"), ("modelspec.architecture", "Qwen-Image/lora"), ("software", "[1"),
    ("ss_base_model_version", "qwen_image_edit"), ("ot_config", "{" * 500), ("x", "\x00\n\x1b[31m"), ("", ""),
    ("ss_network_alpha", "nan"), ("ss_network_dim", "inf"), ("ss_network_alpha", "1"),
    ("modelspec.title", "a" * 10_000),
    *(("lora_adapter_metadata", text) for text in CONFIGURATIONS),
)  # fmt: skip


class Draft:
    """A safetensors file in pieces, that can be put together wrongly."""

    def __init__(self, path):
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        self.entries = json.loads(raw[8 : 8 + length])
        self.metadata = self.entries.pop("__metadata__", {})
        self.data = raw[8 + length :]
        self.length, self.cut = None, None

    def write(self, path):
        header = json.dumps({"__metadata__": self.metadata, **self.entries}).encode()
        length = len(header) if self.length is None else self.length
        raw = length.to_bytes(8, "little") + header + self.data
        path.write_bytes(raw[: self.cut] if self.cut is not None else raw)
        return path

    def add(self, name, values, dtype="F32"):
        data = np.asarray(values, "<f4").tobytes()
        shape = list(np.shape(values))
        self.entries[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(self.data), len(self.data) + len(data)],
        }
        self.data += data

    def rename(self, old, new):
        self.entries[new] = self.entries.pop(old)

    def drop(self, name):
        """Without a hole: the tensors behind move up."""
        start, end = self.entries.pop(name)["data_offsets"]
        self.data = self.data[:start] + self.data[end:]
        for entry in self.entries.values():
            if entry["data_offsets"][0] >= end:
                entry["data_offsets"] = [at - (end - start) for at in entry["data_offsets"]]


def drop(draft, rng, names):
    for name in rng.sample(names, rng.choice((1, 1, 1, 2, 5, len(names)))):
        draft.drop(name)


def rename(draft, rng, names):
    for name in rng.sample(names, rng.choice((1, 1, 2, len(names)))):
        parts = name.split(".")
        at = rng.randrange(len(parts))
        how = rng.randrange(6)
        if how == 0:
            parts[at] = rng.choice(WORDS)
        elif how == 1:
            parts.insert(at, rng.choice(WORDS))
        elif how == 2 and len(parts) > 1:
            del parts[at]
        elif how == 3:
            parts[at] = parts[at][: rng.randrange(len(parts[at]) + 1)]
        elif how == 4:
            parts = [rng.choice(("pipe.dit", "module", "_orig_mod", "x.y")), *parts]
        else:
            parts[at] += rng.choice(string.ascii_letters + "._é")
        new = ".".join(parts)
        if new not in draft.entries and new != "__metadata__":
            draft.rename(name, new)


def retype(draft, rng, names):
    name = rng.choice(names)
    draft.entries[name]["dtype"] = rng.choice(DTYPES)
    if rng.random() < 0.7:  # a tensor that has this dtype, all of it
        size = SIZES.get(draft.entries[name]["dtype"], 1)
        count = int(np.prod(draft.entries[name]["shape"]))
        draft.entries[name]["data_offsets"] = [len(draft.data), len(draft.data) + size * count]
        draft.data += bytes(size * count)


def reshape(draft, rng, names):
    entry = draft.entries[rng.choice(names)]
    shape = entry["shape"]
    options = [shape[::-1], shape + [1], [int(np.prod(shape))], [], [0, *shape[1:]], [-1], [2**40, 2**40], "x", None]
    entry["shape"] = rng.choice([*options, [size + 1 for size in shape], [size * 2 for size in shape]])


def relocate(draft, rng, names):
    entry = draft.entries[rng.choice(names)]
    other = draft.entries[rng.choice(names)]["data_offsets"]
    entry["data_offsets"] = rng.choice([other, [0, 0], [5, 1], [0, 2**62], [-1, 3], "x", None, [1.5, 2]])


def note(draft, rng, names):
    for key, value in rng.sample(ENTRIES, rng.choice((1, 1, 2))):
        draft.metadata[key] = value
    if rng.random() < 0.1:
        draft.metadata = rng.choice([None, [], "x", {"a": 1}, {"a": {"b": "c"}}])


def truncate(draft, rng, names):
    draft.cut = rng.randrange(len(draft.data) + 400)


def lie(draft, rng, names):
    draft.length = rng.choice([0, 1, 7, 2**20, 2**40, 2**63 - 1, rng.randrange(400)])


def grow(draft, rng, names):
    for _ in range(rng.choice((1, 1, 3))):
        stem = rng.choice(names).rsplit(".", rng.choice((1, 2)))[0]
        name = rng.choice([f"{stem}.{rng.choice(WORDS)}", rng.choice(WORDS) + ".x", "bundle_emb.a.b", f"{stem}.diff"])
        if name not in draft.entries:
            draft.add(
                name, rng.choice([np.ones(32), np.ones((4, 32)), np.ones(()), np.full(3, np.nan), np.ones((0, 3))])
            )


def reweigh(draft, rng, names):
    stems = sorted({name.rsplit(".lora", 1)[0] for name in names if ".lora" in name})
    for stem in rng.sample(stems, rng.choice((1, len(stems)))):
        if f"{stem}.alpha" in draft.entries:
            draft.drop(f"{stem}.alpha")
        draft.add(f"{stem}.alpha", rng.choice([0.0, -1.0, 1e30, np.nan, np.inf, 3.0, np.ones(2), np.ones((1, 1))]))


MUTATIONS = (drop, rename, rename, retype, reshape, relocate, note, truncate, lie, grow, reweigh)


@pytest.fixture(scope="module")
def bases(tiny, tmp_path_factory):
    """Small files of several layouts: six layers of each of two blocks."""
    folder, paths = tmp_path_factory.mktemp("bases"), {}
    for name in BASES:
        source = factors(tiny, LAYOUTS[name])
        kept = {
            layer: pair for layer, pair in source.items() if layer.endswith(("to_q", "to_add_out", "img_mlp.net.2"))
        }
        paths[name] = LAYOUTS[name].write(folder / f"{name.replace(' ', '_')}.safetensors", kept)
    return paths


def mutant(number, bases, folder):
    """The file of a number: a base, and one or two things that happened to it."""
    rng = random.Random(number)
    name = BASES[number % len(BASES)]
    draft = Draft(bases[name])
    for mutate in rng.sample(MUTATIONS, rng.choice((1, 1, 1, 2))):
        mutate(draft, rng, sorted(draft.entries) or ["x"]) if draft.entries else None
    return bases[name], draft.write(folder / "a.safetensors")


def meaning(lora):
    """What a file means by its header, and by alpha: everything but the names of its tensors."""
    layers = {
        name: (layer.rank, layer.shape, layer.scaling, *(lora.index[key.text][0] for key in (layer.a, layer.b)))
        for name, layer in lora.layers.items()
    }
    return layers, lora.base, lora.doubts, lora.kinds, len(lora.text_encoder), lora.width


def facts(report):
    return str(report).split("\n", 1)[1]


def product(file, layer):
    a, b = (file.array(key.text).astype(np.float64) for key in (layer.a, layer.b))
    return layer.scaling * (b[slice(*layer.rows)] if layer.rows else b) @ a


def test_a_thousand_headers(bases, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda file: None)  # a thousand of them would measure the disk
    untouched = {path: (meaning(read_lora(path)), facts(diagnose(path, execute=False))) for path in bases.values()}
    outcomes = {"refused": 0, "as before": 0, "named": 0, "rewritten": 0}
    for number in range(COUNT):
        base, path = mutant(number, bases, tmp_path)
        try:
            report = diagnose(path, execute=False)
        except QwenlabError as error:
            assert "\n" not in str(error) and str(error).startswith(str(path)), number
            outcomes["refused"] += 1
            continue
        lora, (meant, said) = report.file, untouched[base]
        assert accounted(lora) == sorted(TensorFile(path).keys), number
        if meaning(lora) == meant:
            outcomes["as before"] += 1
        else:
            assert facts(report) != said, number  # whatever it was, the report says another thing
            outcomes["named"] += 1
        out = tmp_path / f"{number}.safetensors"
        try:
            result = fix(path, out, FORMATS[number % 3])
        except QwenlabError as error:
            assert "\n" not in str(error) and not out.exists(), number
            continue
        assert result.left or not lora.groups or result.lora, number
        if result.lora:
            again, files = read_lora(result.lora), (TensorFile(path), TensorFile(result.lora))
            assert lora.layers.keys() <= again.layers.keys(), number
            for name, layer in lora.layers.items():
                before, after = product(files[0], layer), product(files[1], again.layers[name])
                assert np.abs(before - after).max() <= 1e-6 * np.abs(before).max(), (number, name)
            outcomes["rewritten"] += 1
    assert min(outcomes.values()) >= 50, outcomes


def test_rules_say_what_the_stock_loader_does(bases, tmp_path):
    """Each file for which the rules decide is given to diffusers, too."""
    decided = 0
    for number in range(COUNT):
        _, path = mutant(number, bases, tmp_path)
        try:
            lora = read_lora(path)
        except QwenlabError:
            continue
        told = predict_diffusers(lora)
        if told:
            assert told.outcome == ask_diffusers(lora).outcome, (number, told)
            decided += 1
    assert decided >= 25
