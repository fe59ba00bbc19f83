"""Dataset folders, good and broken, and the caches of latents and embeddings."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qwenlab import dataset as module
from qwenlab.dataset import (
    cache_latents,
    cache_texts,
    encode_image,
    fit_image,
    open_image,
    pad_texts,
    read_dataset,
)
from qwenlab.errors import QwenlabError
from tests.tiny import SIZE, tiny_pipeline


def add_line(folder: Path, line: str) -> None:
    with open(folder / "captions.jsonl", "a", encoding="utf-8") as file:
        file.write(line + "\n")


def add_caption(folder: Path, name: str) -> None:
    add_line(folder, json.dumps({"file_name": name, "text": "1女孩"}))


def test_reads_in_order(dataset_folder):
    dataset = read_dataset(dataset_folder)
    assert [sample.path.name for sample in dataset.samples] == [f"img_{n}.png" for n in range(4)]
    assert dataset.samples[2].text == "1女孩, blue, 挥手, 挥手" and dataset.samples[2].line == 3
    assert dataset.warnings == () and len(dataset) == 4


def test_image_without_caption_is_a_warning(dataset_folder):
    Image.new("RGB", (8, 8)).save(dataset_folder / "images" / "extra.jpg")
    dataset = read_dataset(dataset_folder)
    assert len(dataset) == 4 and len(dataset.warnings) == 1
    assert "extra.jpg: no caption" in dataset.warnings[0]


def breakages():
    def missing_folder(folder):
        folder.rename(folder.with_name("elsewhere"))

    def missing_images(folder):
        (folder / "images").rename(folder / "pictures")

    def missing_captions(folder):
        (folder / "captions.jsonl").unlink()

    def empty_captions(folder):
        (folder / "captions.jsonl").write_text("\n")

    def caption_without_image(folder):
        add_caption(folder, "img_9.png")

    def not_json(folder):
        add_line(folder, '{"file_name": "img_0.png", "text": }')

    def not_an_object(folder):
        add_line(folder, "[1, 2]")

    def deep_json(folder):
        add_line(folder, "[" * 100_000)

    def no_text(folder):
        add_line(folder, '{"file_name": "img_0.png", "txt": "1女孩"}')

    def empty_text(folder):
        add_line(folder, '{"file_name": "img_0.png", "text": "  "}')

    def not_utf8(folder):
        (folder / "captions.jsonl").write_bytes(b'{"file_name": "a"}\n' + "女孩".encode("gbk"))

    def two_captions(folder):
        add_caption(folder, "img_1.png")

    def leaves_the_folder(folder):
        Image.new("RGB", (8, 8)).save(folder / "outside.png")
        add_caption(folder, "../outside.png")

    def absolute_path(folder):
        add_caption(folder, str(folder / "images" / "img_0.png"))

    def link_to_the_outside(folder):
        Image.new("RGB", (8, 8)).save(folder / "outside.png")
        (folder / "images" / "link.png").symlink_to(folder / "outside.png")
        add_caption(folder, "link.png")

    def link_to_itself(folder):
        (folder / "images" / "loop.png").symlink_to(folder / "images" / "loop.png")
        add_caption(folder, "loop.png")

    def name_too_long(folder):
        add_caption(folder, "n" * 5000 + ".png")

    def half_a_character(folder):
        add_caption(folder, "\ud800.png")

    def endless_line(folder):
        with open(folder / "captions.jsonl", "wb") as file:
            file.truncate(2 * 1024**3)  # a hole: takes no space on disk

    def not_an_image(folder):
        (folder / "images" / "text.png").write_text("hello")
        add_caption(folder, "text.png")

    def truncated(folder):
        path = folder / "images" / "img_0.png"
        path.write_bytes(path.read_bytes()[:90])

    def huge(folder):
        Image.new("1", (9000, 9000)).save(folder / "images" / "huge.png")
        add_caption(folder, "huge.png")

    return {
        missing_folder: "no such dataset folder",
        missing_images: "images: no such folder",
        missing_captions: "captions.jsonl: no such file",
        empty_captions: "holds no caption",
        caption_without_image: r"line 5: no image '\S+img_9.png'; add it or delete the line",
        not_json: "line 5: not JSON",
        not_an_object: 'line 5: needs "file_name"',
        deep_json: "line 5: not JSON",
        no_text: 'line 5: needs "text"',
        empty_text: 'line 5: needs "text"',
        not_utf8: "line 2: not UTF-8",
        two_captions: "line 5: img_1.png has a caption on line 2 already",
        leaves_the_folder: "line 5: '../outside.png' leads out of",
        absolute_path: "line 5: .* leads out of",
        link_to_the_outside: "line 5: 'link.png' leads out of",
        link_to_itself: "line 5: .*(leads out of|no image)",
        name_too_long: "line 5: .*(leads out of|no image)",
        half_a_character: "line 5: .*(leads out of|no image)",
        endless_line: "captions.jsonl: more than 256 MiB",
        not_an_image: "text.png: not a readable image",
        truncated: "img_0.png: not a readable image",
        huge: "9000 x 9000 pixels, more than 64,000,000",
    }


@pytest.mark.parametrize(
    "breakage, message", breakages().items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_broken_folders_get_one_clear_line(dataset_folder, breakage, message):
    breakage(dataset_folder)
    with pytest.raises(QwenlabError, match=message) as caught:
        read_dataset(dataset_folder)
    assert "\n" not in str(caught.value)


def test_exif_rotation_and_transparency(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    Image.new("RGB", (20, 10), "red").save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (10, 20)
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    Image.new("L", (4, 4), 128).save(tmp_path / "grey.png")
    assert open_image(tmp_path / "grey.png").getpixel((0, 0)) == (128, 128, 128)
    Image.fromarray(np.full((4, 4), 128 * 256, np.uint16)).save(tmp_path / "deep.png")
    assert open_image(tmp_path / "deep.png").getpixel((0, 0)) == (128, 128, 128)


def test_formats_that_start_programs_are_not_opened(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    with pytest.raises(QwenlabError, match="not a readable image"):
        open_image((tmp_path / "a.eps").rename(tmp_path / "a.png"))


def test_letterboxing_keeps_the_shape_of_things():
    fitted = np.asarray(fit_image(Image.new("RGB", (64, 32), "white"), (32, 32)))
    assert fitted.shape == (32, 32, 3)
    assert (fitted[8:24] == 255).all() and (fitted[:8] == 0).all() and (fitted[24:] == 0).all()


def test_encoding_is_the_inverse_of_the_pipelines_scaling(pipeline):
    image = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = encode_image(pipeline, image)
    assert mean.shape == std.shape == (16, SIZE // 8, SIZE // 8) and (std > 0).all()
    posterior = pipeline.vae.encode(image[None, :, None]).latent_dist
    # what QwenImagePipeline does before it decodes
    latents_mean = torch.tensor(pipeline.vae.config.latents_mean).view(16, 1, 1)
    latents_std = 1.0 / torch.tensor(pipeline.vae.config.latents_std).view(16, 1, 1)
    torch.testing.assert_close(mean / latents_std + latents_mean, posterior.mean[0, :, 0])
    torch.testing.assert_close(std / latents_std, posterior.std[0, :, 0])


def test_posterior_samples_are_fresh_and_reproducible(pipeline, dataset_folder):
    statistics = cache_latents(pipeline, read_dataset(dataset_folder).samples, SIZE)
    draw = lambda seed: statistics.sample(1, torch.Generator().manual_seed(seed))  # noqa: E731
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    draws = torch.stack([draw(seed) for seed in range(400)])
    torch.testing.assert_close(draws.std(0), statistics.std[1], rtol=0.2, atol=1e-4)


def test_padding_is_masked():
    padded, mask = pad_texts([torch.ones(2, 3), torch.ones(4, 3)])
    assert padded.shape == (2, 4, 3) and padded[0, 2:].abs().sum() == 0
    assert mask.tolist() == [[True, True, False, False], [True] * 4]
    assert pad_texts([torch.ones(2, 3), torch.ones(2, 3)])[1] is None


def test_text_embeddings_are_the_pipelines(pipeline):
    (embedding,) = cache_texts(pipeline, ["1女孩, 挥手"])
    assert torch.equal(embedding, pipeline.encode_prompt("1女孩, 挥手")[0][0])


def test_cached_entries_are_read_back_exactly_and_only_changed_ones_computed(
    pipeline, dataset_folder, tmp_path, monkeypatch
):
    encoded = []
    original = encode_image
    monkeypatch.setattr(module, "encode_image", lambda *args: encoded.append(1) or original(*args))
    cache = tmp_path / "cache" / "latents.safetensors"

    def run(pipeline=pipeline, resolution=SIZE):
        encoded.clear()
        statistics = cache_latents(pipeline, read_dataset(dataset_folder).samples, resolution, cache)
        return statistics, len(encoded)

    first, count = run()
    assert count == 4
    again, count = run()
    assert count == 0 and torch.equal(first.mean, again.mean) and torch.equal(first.std, again.std)
    Image.new("RGB", (8, 8), "pink").save(dataset_folder / "images" / "img_2.png")
    changed, count = run()
    assert count == 1 and torch.equal(first.mean[[0, 1, 3]], changed.mean[[0, 1, 3]])
    assert not torch.equal(first.mean[2], changed.mean[2])
    assert run(resolution=2 * SIZE)[1] == 4 and run(pipeline=tiny_pipeline(seed=1))[1] == 4
    assert run()[1] == 0


def test_text_cache_is_keyed_by_text_and_model(pipeline, tmp_path, monkeypatch):
    encoded = []
    original = module.encode_text
    monkeypatch.setattr(module, "encode_text", lambda p, text: encoded.append(text) or original(p, text))
    cache = tmp_path / "texts.safetensors"
    first = cache_texts(pipeline, ["a", "b", "a"], cache)
    second = cache_texts(pipeline, ["b", "c"], cache)
    assert encoded == ["a", "b", "c"] and torch.equal(first[1], second[0])
    cache_texts(tiny_pipeline(seed=1), ["a"], cache)
    assert encoded == ["a", "b", "c", "a"]


def test_a_broken_cache_is_named(pipeline, tmp_path):
    cache = tmp_path / "texts.safetensors"
    cache.write_bytes(b"broken")
    with pytest.raises(QwenlabError, match="unreadable cache .*; delete it"):
        cache_texts(pipeline, ["a"], cache)
