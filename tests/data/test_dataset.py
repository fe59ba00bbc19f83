"""Dataset folders, good and broken, their split, and the encoding of pictures and captions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qwenlab.data.caches import Caches
from qwenlab.data.dataset import View, read_dataset, split_dataset
from qwenlab.data.images import FORMATS, fit_image, image_size, known_formats, open_image
from qwenlab.errors import QwenlabError
from qwenlab.model.encoding import encode_image, pad_texts
from tests.tiny import SIZE


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
        add_line(folder, "[" * 60_000)

    def long_line(folder):
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
        long_line: "line 5: more than 64 KiB without a line end",
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
        endless_line: "captions.jsonl: more than 64 MiB",
        not_an_image: "text.png: not a readable image",
        truncated: "img_0.png: not a readable image",
        huge: "9000 x 9000 pixels, more than 64,000,000",
    }


@pytest.mark.parametrize("breakage, message", breakages().items(), ids=lambda value: getattr(value, "__name__", ""))
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


@pytest.mark.parametrize("name", known_formats())
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_in_the_header_is_that_of_the_decoded_picture(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{FORMATS[name][0]}"
    Image.new("RGB", (20, 10), "red").save(path, format="JPEG" if name == "MPO" else name, exif=exif)
    assert image_size(path) == open_image(path).size


def test_size_of_what_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(QwenlabError, match="a.png: not a readable image .*; replace it"):
        image_size(tmp_path / "a.png")


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
    views = [View(sample.path, (SIZE, SIZE)) for sample in read_dataset(dataset_folder).samples]
    statistics = Caches(pipeline).latents(views)
    draw = lambda seed: statistics.sample(1, torch.Generator().manual_seed(seed))  # noqa: E731
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    draws = torch.stack([draw(seed) for seed in range(400)])
    torch.testing.assert_close(draws.std(0), statistics.std[1], rtol=0.2, atol=1e-4)


def test_padding_is_masked():
    padded, mask = pad_texts([torch.ones(2, 3), torch.ones(4, 3)])
    assert padded.shape == (2, 4, 3) and padded[0, 2:].abs().sum() == 0
    assert mask.tolist() == [[True, True, False, False], [True] * 4]
    assert pad_texts([torch.ones(2, 3), torch.ones(2, 3)])[1] is None


def test_near_duplicates_stay_on_one_side_of_the_split(dataset_folder):
    rng = np.random.default_rng(0)
    for number in range(6):
        image = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).resize((64, 64))
        image.save(dataset_folder / "images" / f"new_{number}.png")
        add_caption(dataset_folder, f"new_{number}.png")
        image.resize((80, 80)).save(dataset_folder / "images" / f"copy_{number}.png")
        add_caption(dataset_folder, f"copy_{number}.png")
    dataset = read_dataset(dataset_folder)
    train, validation = split_dataset(dataset, 0.25)
    assert len(validation) == 4 and set(train.samples) | set(validation.samples) == set(dataset.samples)
    names = {sample.path.name for sample in validation.samples}
    assert not names & {sample.path.name for sample in train.samples}
    copies = {name.replace("new", "copy") if "new" in name else name.replace("copy", "new") for name in names}
    assert copies & {sample.path.name for sample in dataset.samples} <= names
    assert split_dataset(dataset, 0.25) == (train, validation)


def test_pictures_that_are_all_alike_cannot_be_split(dataset_folder):
    for number in range(1, 4):
        Image.open(dataset_folder / "images" / "img_0.png").save(dataset_folder / "images" / f"img_{number}.png")
    with pytest.raises(QwenlabError, match="dataset: validation_share cannot be met: 4 pictures in 1 group"):
        split_dataset(read_dataset(dataset_folder), 0.5)


def test_a_view_is_fitted_and_mirrored(tmp_path):
    image = Image.new("RGB", (64, 32), "white")
    image.paste("red", (0, 0, 8, 32))
    image.save(path := tmp_path / "a.png")
    letterboxed, mirrored = (np.asarray(View(path, (32, 32), mirrored=turned).image()) for turned in (False, True))
    assert (letterboxed[:8] == 0).all() and np.array_equal(letterboxed[:, ::-1], mirrored)
    cropped = np.asarray(View(path, (32, 32), crop=True).image())
    assert (cropped == 255).all(), "a square of the middle, without bars"
