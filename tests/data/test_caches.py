"""Caches of latents and embeddings: exact, resumable after a kill, and invalidated entry by entry."""

import os
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from qwenlab.config import TrainConfig
from qwenlab.data import caches as module
from qwenlab.data.caches import STALE_SECONDS, Caches, free_text_encoder, module_hash, text_model_hash
from qwenlab.data.dataset import View, read_dataset
from qwenlab.errors import QwenlabError
from qwenlab.model.encoding import LatentStatistics, encode_image, encode_text, image_tensor
from qwenlab.model.generation import generate
from qwenlab.training import encode_dataset, train_lora
from qwenlab.training import loop as training_loop
from qwenlab.training.training_set import RunData
from tests.tiny import SIZE, tiny_pipeline


@pytest.fixture
def encoded(monkeypatch):
    """What was encoded since the last `clear`: "picture" for each picture, the text for each text."""
    done = []
    monkeypatch.setattr(module, "encode_image", lambda *args: done.append("picture") or encode_image(*args))
    monkeypatch.setattr(module, "encode_text", lambda pipe, text: done.append(text) or encode_text(pipe, text))
    return done


def views_of(folder, size=SIZE, **options):
    return [View(sample.path, (size, size), **options) for sample in read_dataset(folder).samples]


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_entries_are_read_back_exactly(pipeline, dataset_folder, tmp_path, encoded):
    views, texts = views_of(dataset_folder), ["a", "b", "a"]
    first, first_texts = (caches := Caches(pipeline, tmp_path)).latents(views), caches.texts(texts)
    assert encoded == ["picture"] * 4 + ["a", "b"] and len(entries(tmp_path)) == 6
    encoded.clear()
    again, again_texts = (caches := Caches(pipeline, tmp_path)).latents(views), caches.texts(texts)
    assert encoded == []
    assert torch.equal(first.mean, again.mean) and torch.equal(first.std, again.std)
    assert all(torch.equal(a, b) for a, b in zip(first_texts, again_texts, strict=True))
    mean, std = encode_image(pipeline, image_tensor(views[1].image()))
    assert torch.equal(again.mean[1], mean) and torch.equal(again.std[1], std)
    assert torch.equal(again_texts[1], pipeline.encode_prompt("b")[0][0])


def test_without_a_folder_nothing_is_kept(pipeline, dataset_folder, tmp_path, encoded, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        Caches(pipeline).texts(["a"])
    assert encoded == ["a", "a"] and entries(tmp_path) == []


def test_sizes_may_differ(pipeline, dataset_folder):
    (view, *_) = views_of(dataset_folder)
    statistics = Caches(pipeline).latents([view, replace(view, size=(64, SIZE))])
    assert [tuple(mean.shape) for mean in statistics.mean] == [(16, 4, 4), (16, 4, 8)]
    assert statistics.sample(1, torch.Generator().manual_seed(0)).shape == (16, 4, 8)


def test_a_changed_picture_invalidates_its_own_entry(pipeline, dataset_folder, tmp_path, encoded):
    first = Caches(pipeline, tmp_path).latents(views_of(dataset_folder))
    encoded.clear()
    Image.new("RGB", (8, 8), "pink").save(dataset_folder / "images" / "img_2.png")
    changed = Caches(pipeline, tmp_path).latents(views_of(dataset_folder))
    assert encoded == ["picture"] and torch.equal(first.mean[[0, 1, 3]], changed.mean[[0, 1, 3]])
    assert not torch.equal(first.mean[2], changed.mean[2])


def test_a_picture_that_only_moved_keeps_its_entry(pipeline, dataset_folder, tmp_path, encoded):
    Caches(pipeline, tmp_path).latents(views_of(dataset_folder))
    encoded.clear()
    dataset_folder.rename(dataset_folder.with_name("moved"))
    Caches(pipeline, tmp_path).latents(views_of(dataset_folder.with_name("moved")))
    assert encoded == []


@pytest.mark.parametrize("change", [{"size": 2 * SIZE}, {"crop": True}, {"mirrored": True}], ids=str)
def test_every_way_of_showing_a_picture_has_its_entry(pipeline, dataset_folder, tmp_path, encoded, change):
    Caches(pipeline, tmp_path).latents(views_of(dataset_folder))
    encoded.clear()
    Caches(pipeline, tmp_path).latents(views_of(dataset_folder, **change))
    assert encoded == ["picture"] * 4
    encoded.clear()
    Caches(pipeline, tmp_path).latents(views_of(dataset_folder))
    assert encoded == [], "the old entries stay valid"


def test_a_changed_caption_invalidates_its_own_entry(pipeline, tmp_path, encoded):
    Caches(pipeline, tmp_path).texts(["a", "b", "c"])
    encoded.clear()
    Caches(pipeline, tmp_path).texts(["a", "B", "c"])
    assert encoded == ["B"]


def test_a_changed_model_invalidates_its_own_entries(pipeline, dataset_folder, tmp_path, encoded):
    def run():
        encoded.clear()
        (caches := Caches(pipeline, tmp_path)).latents(views_of(dataset_folder))
        caches.texts(["a"])
        return list(encoded)

    assert run() == ["picture"] * 4 + ["a"] and run() == []
    one_value(pipeline.vae.encoder)
    assert run() == ["picture"] * 4
    one_value(pipeline.text_encoder)
    assert run() == ["a"]
    one_value(pipeline.transformer)
    assert run() == [], "the transformer has no part in what is cached"


@torch.no_grad()
def one_value(model: torch.nn.Module) -> None:
    """The smallest change that a weight can have: the last bit of one value."""
    weight = next(parameter for parameter in model.parameters() if parameter.ndim > 1)
    weight.flatten()[7:8].view(torch.int32).bitwise_xor_(1)


def test_a_model_is_known_wherever_it_was_loaded_from(pipeline, tmp_path):
    from diffusers import QwenImagePipeline

    for name in ("here", "there"):
        pipeline.save_pretrained(tmp_path / name)
    here, there = (QwenImagePipeline.from_pretrained(tmp_path / name) for name in ("here", "there"))
    there.encode_prompt("a tokenizer remembers how it padded")
    for part in (pipeline, here):
        assert module_hash(part.vae) == module_hash(there.vae) and text_model_hash(part) == text_model_hash(there)
    assert module_hash(there.vae.to(torch.bfloat16)) != module_hash(here.vae)
    here.vae.register_to_config(latents_mean=[0.5] * 16)
    assert module_hash(here.vae) != module_hash(pipeline.vae)
    there.prompt_template_encode = "{}"
    assert text_model_hash(there) != text_model_hash(pipeline)


# Damage


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


def another_entry(path):
    other = next(entry for entry in entries(path.parent) if entry != path)
    path.write_bytes(other.read_bytes())


def no_metadata(path):
    from safetensors.torch import save

    path.write_bytes(save(load_file(path)))


@pytest.mark.parametrize("damage", [cut, flip_a_bit, empty, another_entry, no_metadata])
def test_a_damaged_entry_is_said_and_made_again(pipeline, tmp_path, encoded, damage):
    texts = ["a", "b", "c"]
    before = Caches(pipeline, tmp_path).texts(texts)
    path = tmp_path / "texts" / f"{module.text_key('b', text_model_hash(pipeline))}.safetensors"
    damage(path)
    encoded.clear()
    said = []
    after = Caches(pipeline, tmp_path, said.append).texts(texts)
    assert encoded == ["b"] and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    (line,) = said
    assert line.startswith(f"warning: {path}: damaged cache entry (") and "\n" not in line
    encoded.clear()
    Caches(pipeline, tmp_path, said.append).texts(texts)
    assert encoded == [] and len(said) == 1, "mended for good"


def test_warnings_go_to_standard_error(pipeline, tmp_path, capsys):
    Caches(pipeline, tmp_path).texts(["a"])
    empty(entries(tmp_path)[0])
    Caches(pipeline, tmp_path).texts(["a"])
    assert "damaged cache entry" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(pipeline, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(QwenlabError, match="file/texts: the cache cannot be written .*set cache_dir"):
        Caches(pipeline, tmp_path / "file").texts(["a"])


def test_a_picture_that_is_gone_is_named(pipeline, dataset_folder):
    views = views_of(dataset_folder)
    views[1].path.unlink()
    with pytest.raises(QwenlabError, match="img_1.png: the picture cannot be read .*; put it back"):
        Caches(pipeline).latents(views)


# Killed runs

# Encodes a data set into a cache and writes a line for each thing encoded; when the DIE-th entry has been written but
# does not have its name yet, the process kills itself as the kernel or a user would.
RUN = """
import os, signal, sys
from qwenlab.data import caches
from qwenlab import files
from qwenlab.config import TrainConfig
from qwenlab.data.dataset import read_dataset
from qwenlab.training import encode_dataset
from tests.tiny import SIZE, tiny_pipeline

folder, cache, log, die = *sys.argv[1:4], int(sys.argv[4])
image, text = caches.encode_image, caches.encode_text
note = lambda: open(log, "a").write("x\\n")
caches.encode_image = lambda *args: note() and image(*args)
caches.encode_text = lambda *args: note() and text(*args)
written, replace = [], os.replace
def rename(*args):
    written.append(args)
    if len(written) == die:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*args)
files.os.replace = rename
encode_dataset(tiny_pipeline(), read_dataset(folder), TrainConfig(resolution=SIZE), files.Path(cache))
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("die", [3, 7], ids=["in a picture", "in a text"])
def test_a_killed_run_goes_on_where_it_was(pipeline, dataset_folder, tmp_path, encoded, die):
    cache, log = tmp_path / "cache", tmp_path / "log"
    command = [sys.executable, "-c", RUN, str(dataset_folder), str(cache), str(log), str(die)]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(log.read_text().split()) == die and len(entries(cache)) == die - 1
    assert len(list(cache.rglob("*.tmp"))) == 1, "it died in the middle of a write"

    config = TrainConfig(resolution=SIZE)
    resumed = encode_dataset(pipeline, read_dataset(dataset_folder), config, cache)
    total = 4 + 4 + 1
    assert len(encoded) == total - (die - 1) and len(entries(cache)) == total
    whole = encode_dataset(pipeline, read_dataset(dataset_folder), config)
    assert torch.equal(resumed.latents.mean, whole.latents.mean)
    assert all(torch.equal(a, b) for a, b in zip(resumed.texts, whole.texts, strict=True))


def test_what_a_killed_run_left_behind_is_removed_later(pipeline, tmp_path):
    (folder := tmp_path / "texts").mkdir()
    old, new = folder / ".old.tmp", folder / ".new.tmp"
    for path in (old, new):
        path.write_bytes(b"part")
    os.utime(old, (time.time() - STALE_SECONDS - 1,) * 2)
    Caches(pipeline, tmp_path).texts(["a"])
    assert not old.exists() and new.exists(), "another run may be writing the new one"


# Training


@pytest.fixture
def config(dataset_folder, tmp_path) -> TrainConfig:
    return TrainConfig(
        resolution=SIZE, dataset=str(dataset_folder), output_dir=str(tmp_path / "run"), max_train_steps=6,
        batch_size_per_gpu=2, gradient_accumulation_steps=2, learning_rate=1e-2, rank=4, seed=3, caption_dropout=0.3,
    )  # fmt: skip


class Live:
    """Latents and texts of a data set that are encoded anew every time a step asks for them."""

    def __init__(self, pipeline, samples):
        self.pipeline, self.samples = pipeline, samples

    def sample(self, index, generator):
        mean, std = encode_image(self.pipeline, image_tensor(View(self.samples[index].path, (SIZE, SIZE)).image()))
        return LatentStatistics(mean[None], std[None]).sample(0, generator)

    def __getitem__(self, index):
        return encode_text(self.pipeline, self.samples[index].text)


def test_cached_training_equals_training_on_live_encodings(pipeline, config, encoded, monkeypatch, tmp_path):
    fresh = train_lora(pipeline, config, progress=False)
    assert len(encoded) == 9
    encoded.clear()
    cached = train_lora(tiny_pipeline(), config, progress=False)
    assert encoded == [], "read from the cache"

    def live_data(pipeline, dataset, config, *args):
        live = Live(pipeline, dataset.samples)
        encoded_once = encode_dataset(pipeline, dataset, config)
        training = replace(encoded_once, latents=live, texts=live)
        vars(training)["sizes"] = encoded_once.sizes
        return RunData(training, None, None)

    monkeypatch.setattr(training_loop, "prepare_data", live_data)
    live = train_lora(tiny_pipeline(), replace(config, output_dir=str(tmp_path / "live")), progress=False)
    assert fresh.losses == cached.losses == live.losses
    one, two, three = (load_file(result.lora_path) for result in (fresh, cached, live))
    assert all(torch.equal(one[key], two[key]) and torch.equal(one[key], three[key]) for key in one)


def test_runs_share_a_cache_folder(pipeline, config, encoded, tmp_path):
    config = replace(config, cache_dir=str(tmp_path / "shared"), max_train_steps=1)
    train_lora(pipeline, config, progress=False)
    encoded.clear()
    train_lora(pipeline, replace(config, output_dir=str(tmp_path / "other"), seed=9), progress=False)
    assert encoded == [] and not (tmp_path / "other" / "cache").exists()


def test_the_text_encoder_is_freed_and_previews_go_on(pipeline, config, tmp_path):
    config = replace(config, preview_prompts=["1女孩", "1男孩, 挥手"], preview_every_n_steps=3, preview_steps=2)
    kept = train_lora(pipeline, config, progress=False)
    lean = tiny_pipeline()
    encoder = weakref.ref(lean.text_encoder)
    freed = train_lora(lean, replace(config, free_text_encoder=True, output_dir=str(tmp_path / "lean")), progress=False)
    assert encoder() is None, "nothing holds it any longer"
    assert freed.losses == kept.losses and len(freed.previews) == 6, "two prompts at steps 0, 3 and 6"
    for with_encoder, without in zip(kept.previews, freed.previews, strict=True):
        # prompts are embedded one by one instead of together: rounding of a pixel value at most
        one, two = (np.asarray(Image.open(path), np.int16) for path in (with_encoder, without))
        assert np.abs(one - two).max() <= 1
    with pytest.raises(QwenlabError, match="text encoder was freed: load the pipeline again"):
        generate(lean, "1女孩", 0, steps=2)
    with pytest.raises(QwenlabError, match="text encoder was freed"):
        Caches(lean).texts(["1女孩"])


def test_cached_embeddings_draw_what_prompts_draw(pipeline):
    prompt = "1女孩, 挥手"
    embeddings = {text: encode_text(pipeline, text) for text in (prompt, " ")}
    (with_prompt,) = generate(pipeline, prompt, 5, steps=2)
    free_text_encoder(pipeline)
    (with_embedding,) = generate(pipeline, prompt, 5, steps=2, embeddings=embeddings)
    assert with_prompt.tobytes() == with_embedding.tobytes()
