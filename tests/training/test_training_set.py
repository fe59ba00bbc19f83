"""What steps read of a data set: buckets, mirror images, tag orders, and pictures that are held out."""

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from qwenlab.config import TrainConfig
from qwenlab.data.buckets import shuffled_captions
from qwenlab.data.caches import Caches
from qwenlab.data.dataset import View, read_dataset, split_dataset
from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY
from qwenlab.model.encoding import encode_text
from qwenlab.model.flow import derived_generator
from qwenlab.model.pipeline import load_pipeline
from qwenlab.training import batches as batches_module
from qwenlab.training import draw_batch, draw_batches, encode_dataset, flow_loss, held_out_loss, train_lora
from qwenlab.training.batches import batches_loss, epoch_order, make_batch, picture_of_visit
from qwenlab.training.training_set import describe_buckets, prepare_data
from tests.tiny import tiny_pipeline

RESOLUTION = 96  # the smallest with more than one bucket: 64x128, 96x96, 128x64
SHAPES = [(96, 96), (60, 130), (200, 200), (130, 60), (64, 128), (50, 100), (96, 96)]


@pytest.fixture
def folder(tmp_path):
    """Seven different pictures in three shapes, with captions of different lengths."""
    (images := tmp_path / "shapes" / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for number, size in enumerate(SHAPES):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).resize(size).save(images / f"{number}.png")
        text = f"1女孩, 左手举{number}" + ", 挥手" * (number % 3) + ", 花园, 红裙"
        lines.append(json.dumps({"file_name": f"{number}.png", "text": text}))
    (images.parent / "captions.jsonl").write_text("\n".join(lines))
    return images.parent


@pytest.fixture
def config(folder, tmp_path) -> TrainConfig:
    return TrainConfig(
        resolution=RESOLUTION, dataset=str(folder), output_dir=str(tmp_path / "run"), max_train_steps=4, rank=4,
        batch_size_per_gpu=2, learning_rate=1e-2, seed=3, resize_mode="buckets", cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip


def one_process(index=0, count=1):
    return SimpleNamespace(num_processes=count, process_index=index)


@pytest.fixture
def visits(monkeypatch):
    """The pictures that were drawn since the last `clear`, in order."""
    drawn = []

    def recorded(*args):
        drawn.append(picture_of_visit(*args))
        return drawn[-1]

    monkeypatch.setattr(batches_module, "picture_of_visit", recorded)
    return drawn


# Buckets


@pytest.mark.parametrize("samples_per_step", [1, 2, 3, 4, 8, 100])
def test_every_picture_is_visited_once_an_epoch_in_every_bucket_mix(samples_per_step):
    sizes = tuple("aababbcaaabbac")
    orders = [epoch_order(0, epoch, sizes, samples_per_step) for epoch in range(5)]
    assert all(sorted(order) == list(range(len(sizes))) for order in orders)
    assert len(set(orders)) == 5
    stream = [picture_of_visit(0, visit, sizes, samples_per_step) for visit in range(5 * len(sizes))]
    assert tuple(stream) == sum(orders, ())


def test_few_steps_mix_sizes():
    sizes, step, epochs = tuple("a" * 31 + "b" * 20 + "c" * 10), 4, 8

    def mixed(sizes_known):
        seen = [sizes[picture_of_visit(1, visit, sizes_known, step)] for visit in range(epochs * len(sizes))]
        return sum(len(set(seen[start : start + step])) > 1 for start in range(0, len(seen), step))

    # 31 and 10 leave 3 and 2 pictures, which share the two steps at the ends of an epoch with those of its neighbours
    assert mixed(sizes) <= 2 * epochs < mixed([0] * len(sizes)) / 3


def test_no_batch_mixes_sizes_and_none_costs_more_than_the_square(pipeline, config, visits):
    config = replace(config, batch_size_per_gpu=3)
    training_set = encode_dataset(pipeline, read_dataset(config.dataset), config)
    shapes = Counter()
    for step in range(1, 8):  # 21 samples: three epochs
        drawn = draw_batches(pipeline, training_set, config, step, 0, one_process())
        assert sum(len(batch.sigma) for batch in drawn) == 3
        for batch in drawn:
            ((frames, height, width),) = {shape for (shape,) in batch.image_shapes}
            assert batch.x_t.shape[1] == height * width and frames == 1
            assert 16 * height % 32 == 16 * width % 32 == 0
            assert 16 * height * 16 * width <= RESOLUTION**2
            shapes[width * 16, height * 16] += len(batch.sigma)
    assert Counter(visits) == dict.fromkeys(range(7), 3)
    assert shapes == {(96, 96): 9, (64, 128): 9, (128, 64): 3}
    with pytest.raises(QwenlabError, match="mixes pictures of 2 sizes.*use draw_batches"):
        for step in range(1, 8):
            draw_batch(pipeline, training_set, config, step, 0, one_process())


def test_pictures_are_cut_not_letterboxed(pipeline, config):
    data = read_dataset(config.dataset)
    assert describe_buckets(data, config) == "buckets 64x128: 3, 96x96: 3, 128x64: 1; most is cut off 1.png, 8%"
    cut = encode_dataset(pipeline, data, config)
    square = encode_dataset(pipeline, data, replace(config, resize_mode="letterbox"))
    assert set(square.sizes) == {(12, 12)} and set(cut.sizes) == {(12, 12), (16, 8), (8, 16)}
    assert torch.equal(cut.latents.mean[0], square.latents.mean[0])
    expected = Caches(pipeline).latents([View(data.samples[1].path, (64, 128), crop=True)])
    assert torch.equal(cut.latents.mean[1], expected.mean[0])


def test_a_step_is_the_same_however_it_is_divided(pipeline, config, visits):
    training_set = encode_dataset(pipeline, read_dataset(config.dataset), config)

    def samples(batch_size, accumulation, processes):
        """All of two steps' samples, whatever batch they stand in."""
        parts = replace(config, batch_size_per_gpu=batch_size, gradient_accumulation_steps=accumulation)
        found = []
        for step in (1, 2):
            for micro_step in range(accumulation):
                for process in range(processes):
                    place = one_process(process, processes)
                    for batch in draw_batches(pipeline, training_set, parts, step, micro_step, place):
                        found += [(step, float(s), float(x.sum())) for s, x in zip(batch.sigma, batch.x_t, strict=True)]
        return sorted(found)

    whole = samples(4, 1, 1)
    order = list(visits)
    assert len(set(order[:7])) == 7 and len(whole) == 8
    for division in ((2, 2, 1), (1, 4, 1), (2, 1, 2), (1, 2, 2), (1, 1, 4)):
        visits.clear()
        assert samples(*division) == whole and visits == order


def test_each_picture_counts_the_same_whatever_its_batch(pipeline, config):
    config = replace(config, batch_size_per_gpu=7)
    training_set = encode_dataset(pipeline, read_dataset(config.dataset), config)
    drawn = draw_batches(pipeline, training_set, config, 1, 0, one_process())
    assert sorted(len(batch.sigma) for batch in drawn) == [1, 3, 3]
    alone = replace(config, batch_size_per_gpu=1, gradient_accumulation_steps=7)
    losses = [
        flow_loss(pipeline.transformer, draw_batch(pipeline, training_set, alone, 1, micro_step, one_process()))
        for micro_step in range(7)
    ]
    together = batches_loss(pipeline.transformer, drawn)
    torch.testing.assert_close(together, torch.stack(losses).mean(), atol=1e-5, rtol=0)


def test_training_on_buckets_repeats_and_agrees_with_accumulation(config, tmp_path):
    def run(name, **changes):
        changed = replace(config, output_dir=str(tmp_path / name), **changes)
        return train_lora(tiny_pipeline(), changed, progress=False)

    large, again = run("a", batch_size_per_gpu=4), run("b", batch_size_per_gpu=4)
    assert large.losses == again.losses
    small = run("c", batch_size_per_gpu=1, gradient_accumulation_steps=4)
    np.testing.assert_allclose(large.losses, small.losses, atol=1e-5)
    a, b = load_file(large.lora_path), load_file(small.lora_path)
    assert all(torch.allclose(a[key], b[key], atol=1e-3) for key in a)


# What torchrun does, for two processes on this machine.
PROCESS = """
import json, sys
from accelerate import Accelerator, DistributedType
from safetensors.torch import save_file
from qwenlab.config import TrainConfig
from qwenlab.training import train_lora
from tests.tiny import tiny_pipeline

clip, steps = Accelerator.clip_grad_norm_, []

def recorded(self, parameters, norm):
    steps.append(1)
    many = DistributedType.MULTI_CPU if self.num_processes > 1 else DistributedType.NO
    assert self.distributed_type == many, self.distributed_type  # accelerate falls back in silence
    gradients = {str(i): p.grad.clone() for i, p in enumerate(parameters) if p.grad is not None}
    save_file(gradients, f"{sys.argv[2]}-{self.process_index}-{len(steps)}.safetensors")
    return clip(self, parameters, norm)

Accelerator.clip_grad_norm_ = recorded
result = train_lora(tiny_pipeline(), TrainConfig(**json.loads(sys.argv[1])), progress=False)
print(json.dumps(result.losses))
"""


def run_processes(config, count, record):
    """Losses of `count` processes that train together, and the files of their gradients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(count):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        if count > 1:
            environment |= {key: str(value) for key, value in place.items()}
        command = [sys.executable, "-c", PROCESS, json.dumps(vars(config)), str(record)]
        options = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, **options))
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, outputs
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


@pytest.mark.parametrize("text_encoder_rank", [0, 2])
def test_two_processes_with_half_the_batch_agree_with_one(config, tmp_path, text_encoder_rank):
    config = replace(config, text_encoder_rank=text_encoder_rank, batch_size_per_gpu=4)
    (alone,) = run_processes(config, 1, tmp_path / "alone")
    both = replace(config, batch_size_per_gpu=2, output_dir=str(tmp_path / "both"))
    first, second = run_processes(both, 2, tmp_path / "both")
    assert first == second
    np.testing.assert_allclose(first, alone, atol=1e-5)
    for step in range(1, config.max_train_steps + 1):
        one = load_file(tmp_path / f"alone-0-{step}.safetensors")
        for rank in range(2):
            other = load_file(tmp_path / f"both-{rank}-{step}.safetensors")
            assert one.keys() == other.keys() and one
            assert all(torch.allclose(one[name], other[name], atol=1e-5, rtol=0) for name in one), step
    a, b = load_file(tmp_path / "run" / "lora.safetensors"), load_file(tmp_path / "both" / "lora.safetensors")
    assert all(torch.allclose(a[key], b[key], atol=1e-3) for key in a)


def test_accelerate_launch_trains_with_the_shipped_configuration(config, tmp_path):
    """The command that the file names, on a saved pipeline; the result is that of one process."""
    tiny_pipeline().save_pretrained(tmp_path / "base")
    config = replace(config, base=str(tmp_path / "base"), save_every_n_steps=2)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(vars(config), allow_unicode=True), encoding="utf-8")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    file = REPOSITORY / "configs" / "accelerate" / "cpu_two_processes.yaml"
    command = [*launch, "--config_file", str(file), "-m", "qwenlab", "train", str(tmp_path / "train.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    both = json.loads((tmp_path / "run" / "training.json").read_text())["losses"]
    one = replace(config, batch_size_per_gpu=4, output_dir=str(tmp_path / "alone"))
    alone = train_lora(load_pipeline(config.base), one, progress=False)
    np.testing.assert_allclose(both, alone.losses, atol=1e-5)


# Mirror images and tag orders


def texts_seen(pipeline, training_set, config, steps):
    """How often each text index was drawn, found by its embedding."""
    seen = Counter()
    for step in range(1, steps + 1):
        for batch in draw_batches(pipeline, training_set, config, step, 0, one_process()):
            for row, text in enumerate(batch.text):
                length = len(text) if batch.text_mask is None else int(batch.text_mask[row].sum())
                matches = [i for i, known in enumerate(training_set.texts) if torch.equal(known, text[:length])]
                seen[matches[0]] += 1
    return seen


def test_a_mirrored_picture_comes_with_left_and_right_exchanged(pipeline, config, folder):
    lines = (folder / "captions.jsonl").read_text().splitlines()
    with_sign = json.dumps({"file_name": "6.png", "text": "1女孩, 左手举招牌"})
    (folder / "captions.jsonl").write_text("\n".join([*lines[:6], with_sign]))
    data = read_dataset(folder)
    training_set = encode_dataset(pipeline, data, replace(config, random_flip=True))
    assert [len(pairs) for pairs in training_set.choices] == [2] * 6 + [1], "writing is never mirrored"
    plain = encode_dataset(pipeline, data, config)
    for index, sample in enumerate(data.samples[:6]):
        (latents, text), (mirrored, other) = training_set.choices[index]
        assert torch.equal(training_set.latents.mean[latents], plain.latents.mean[index])
        assert torch.equal(training_set.texts[text], plain.texts[index])
        exchanged = sample.text.replace("左", "右")
        assert exchanged != sample.text
        assert torch.equal(training_set.texts[other], encode_text(pipeline, exchanged))
        assert not torch.equal(training_set.latents.mean[mirrored], training_set.latents.mean[latents])


def test_versions_are_drawn_evenly_and_change_nothing_else(pipeline, config):
    config = replace(config, resize_mode="letterbox", caption_dropout=0.0, batch_size_per_gpu=7)
    data = read_dataset(config.dataset)
    varied = replace(config, random_flip=True, caption_orders=3)
    training_set = encode_dataset(pipeline, data, varied)
    seen = texts_seen(pipeline, training_set, varied, 40)  # each picture 40 times
    for pairs in training_set.choices:
        drawn = [seen[text] for _, text in pairs]
        assert len(pairs) == 6 and sum(drawn) == 40 and min(drawn) >= 1
    plain = draw_batches(pipeline, encode_dataset(pipeline, data, config), config, 1, 0, one_process())
    other = draw_batches(pipeline, training_set, varied, 1, 0, one_process())
    assert torch.equal(plain[0].sigma, other[0].sigma), "noise and sigma do not depend on the versions"


def test_the_anchor_stays_first_and_the_cache_small(pipeline, config, monkeypatch, tmp_path):
    encoded = []
    monkeypatch.setattr("qwenlab.data.caches.encode_text", lambda p, text: encoded.append(text) or encode_text(p, text))
    config = replace(config, caption_orders=3, resize_mode="letterbox")
    data = read_dataset(config.dataset)
    training_set = encode_dataset(pipeline, data, config, tmp_path / "texts")
    assert len(training_set.texts) == 3 * 7 and len(set(encoded)) == len(encoded) == 3 * 7 + 1
    for index, sample in enumerate(data.samples):
        versions = encoded[3 * index : 3 * index + 3]
        assert versions == shuffled_captions(sample.text, 3) and versions[0] == sample.text
        assert all(version.startswith("1女孩, ") for version in versions)
    encoded.clear()
    encode_dataset(pipeline, data, replace(config, seed=99), tmp_path / "texts")
    assert encoded == [], "another seed draws among the same orders"


# Validation


def test_held_out_pictures_never_reach_a_training_batch(pipeline, config, visits, monkeypatch):
    config = replace(config, validation_share=0.3, max_train_steps=7, validate_every_n_steps=4)
    data = read_dataset(config.dataset)
    train, held_out = split_dataset(data, 0.3)
    kept = Caches(pipeline).latents  # recorded below: which files were encoded for which set
    asked = []
    monkeypatch.setattr(
        Caches, "latents", lambda self, views, *rest: asked.append({v.path for v in views}) or kept(views, *rest)
    )
    prepared = prepare_data(pipeline, data, config)
    paths = [{sample.path for sample in side.samples} for side in (train, held_out)]
    assert asked == paths and len(held_out) == 2
    assert len(prepared.training) == 5 and len(prepared.validation) == 2
    result = train_lora(pipeline, config, progress=False)
    assert len(visits) == 14 and set(visits) == set(range(5)), "indices of the five alone"
    assert list(result.validation) == [0, 4, 7]
    assert all(list(losses) == [0.1, 0.3, 0.5, 0.7, 0.9] for losses in result.validation.values())


def test_validation_starts_at_the_base_and_disturbs_nothing(config, folder, tmp_path):
    config = replace(config, validation_share=0.3)
    pipeline = tiny_pipeline()
    _, held_out = split_dataset(read_dataset(folder), 0.3)
    base = held_out_loss(pipeline, encode_dataset(pipeline, held_out, config))
    result = train_lora(pipeline, config, progress=False)
    assert result.validation[0] == pytest.approx(base, rel=1e-5)  # the fast forward pass rounds otherwise
    assert result.validation[4] != pytest.approx(base, rel=1e-3)
    often = replace(config, validate_every_n_steps=1, output_dir=str(tmp_path / "often"))
    watched = train_lora(tiny_pipeline(), often, progress=False)
    assert watched.losses == result.losses and list(watched.validation) == [0, 1, 2, 3, 4]
    record = json.loads((tmp_path / "often" / "training.json").read_text())
    assert record["validation"]["0"] == {str(sigma): loss for sigma, loss in watched.validation[0].items()}


def test_held_out_loss_of_several_sizes_is_the_mean_over_pictures(pipeline, config):
    data = read_dataset(config.dataset)
    plain = encode_dataset(pipeline, data, config)
    losses = []
    for index, text in enumerate(plain.texts):
        generator = derived_generator(0, "held-out", index)
        x0 = plain.latents.sample(index, generator)
        noise = torch.randn(x0.shape, generator=generator)
        batch = make_batch(pipeline, x0[None], noise[None], torch.tensor([0.5]), [text])
        losses.append(flow_loss(pipeline.transformer, batch).item())
    everything = held_out_loss(pipeline, plain, (0.5,))
    assert everything == {0.5: pytest.approx(np.mean(losses), rel=1e-4)}
    varied = encode_dataset(pipeline, data, replace(config, random_flip=True, caption_orders=3))
    assert held_out_loss(pipeline, varied, (0.5,)) == everything, "pictures and captions as they are"


def test_notes_say_what_was_done(pipeline, config):
    said = []
    prepare_data(pipeline, read_dataset(config.dataset), replace(config, validation_share=0.3), said.append)
    assert said[0] == "note: 2 of 7 pictures are held out for validation" and said[1].startswith("note: buckets ")
