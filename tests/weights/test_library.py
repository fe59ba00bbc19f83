"""The library of characters and styles: its data sets, its judge, its LoRAs."""

import numpy as np
import pytest
import torch

from qwenlab.data.dataset import read_dataset
from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY
from qwenlab.lab import world
from qwenlab.lab.judge.library import LibraryNet, load_library_judge
from qwenlab.lab.judge.train_library import agreement, labelled_scene, pictures, train
from qwenlab.lab.world.attributes import STYLES
from qwenlab.lab.world.library import CHARACTERS, LIBRARY_STYLES, NAMES, test_scenes, training_scenes, write_library
from qwenlab.lab.world.sample import is_reserved
from qwenlab.lora.files import diagnose
from qwenlab.lora.fusion import Source, fuse, fused
from qwenlab.lora.io import load_lora, remove_lora
from qwenlab.model.generation import generate
from qwenlab.model.pipeline import load_pipeline
from tests.lora.lora_factors import relative, updates

test_scenes.__test__ = False  # a function of the library, no test
LIBRARY = REPOSITORY / "lora_library"


@pytest.mark.parametrize("name", NAMES)
def test_a_data_set_teaches_one_thing_and_keeps_the_test_pairs_out(name):
    scenes = training_scenes(name)
    assert len({world.caption(scene) for scene in scenes}) == len(scenes) == 192
    assert not any(is_reserved(scene.action, scene.background) for scene in scenes)
    looks = {(s.gender, s.hair_style, s.hair_color, s.clothes) for s in scenes}
    styles = {s.style for s in scenes}
    if name in CHARACTERS:
        character = CHARACTERS[name]
        assert looks == {(character.gender, character.hair_style, character.hair_color, character.clothes)}
        assert styles == set(STYLES), "in all of the base's styles and in no other"
    else:
        assert styles == {LIBRARY_STYLES[name]}
        assert len(looks) > 20 and not {c.hair_style for c in CHARACTERS.values()} & {look[1] for look in looks}


def test_test_scenes_show_the_pair_in_places_that_no_data_set_has():
    scenes = list(test_scenes("deer", "pop", 12, 5))
    assert scenes == list(test_scenes("deer", "pop", 12, 5)) != list(test_scenes("deer", "pop", 12, 6))
    assert all(is_reserved(s.action, s.background) for s in scenes)
    assert {(s.hair_style, s.style) for s in scenes} == {("鹿角长发", "波普画")}
    assert {s.style for s in test_scenes("deer", "", 20, 5)} <= set(STYLES)


def test_written_data_sets_are_read_as_they_are_and_never_change(tmp_path):
    for folder in ("a", "b"):
        write_library(tmp_path / folder, ("rabbit",), count=3)
    dataset = read_dataset(tmp_path / "a" / "rabbit")
    assert len(dataset) == 3 and all("银白色兔耳短发" in sample.text for sample in dataset.samples)
    for sample in dataset.samples:
        assert sample.path.read_bytes() == (tmp_path / "b" / "rabbit" / "images" / sample.path.name).read_bytes()


def test_every_look_changes_the_drawing():
    scene = next(iter(test_scenes("", "", 1, 3)))
    drawn = [world.render(scene, 128).image.astype(int)]
    drawn += [world.render(character.play(scene), 128).image.astype(int) for character in CHARACTERS.values()]
    for style in LIBRARY_STYLES.values():
        drawn.append(world.render(world.Scene(**{**vars(scene), "style": style}), 128).image.astype(int))
    for k, a in enumerate(drawn):
        assert all(np.abs(a - b).mean() > 2 for b in drawn[k + 1 :])


def test_the_judge_reads_drawings_that_it_has_not_seen():
    found = agreement(load_library_judge(), *pictures(150, 9_000, None))
    assert all(row["right"] >= 0.93 * row["of"] for row in found.values()), found


def test_hair_alone_makes_no_character():
    rng = np.random.default_rng(4)
    truths = [labelled_scene(rng)[1] for _ in range(200)]
    assert sum(t["hair"] != t["clothes"] for t in truths) > 20
    scene = next(iter(test_scenes("fox", "", 1, 2)))
    dressed = world.Scene(**{**vars(scene), "clothes": "红色毛衣"})
    assert load_library_judge().read([world.render(dressed, 128).image])[0].character == "other"


def test_a_briefly_trained_judge_reads_places_better_than_chance():
    images, truths = pictures(40, 1, None)
    torch.manual_seed(0)
    network = train(images, truths, steps=20)
    found = agreement(type(load_library_judge())(network), images, truths)
    assert isinstance(network, LibraryNet) and found["background"]["right"] > 40 / 8


def test_a_missing_judge_names_the_command(tmp_path):
    with pytest.raises(QwenlabError, match="train_library"):
        load_library_judge(tmp_path / "none.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_lora_fits_the_shipped_base(name):
    report = diagnose(LIBRARY / f"{name}.safetensors")
    assert report.diffusers.works and report.file.model.name == "micro"
    assert {layer.rank for layer in report.file.layers.values()} == {8}


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline("micro")


def draw(pipeline, scenes):
    prompts = [world.caption(scene) for scene in scenes]
    return generate(pipeline, prompts, list(range(len(scenes))), steps=10, guidance=2.5)


def test_a_fused_pair_draws_both_and_leaves_the_base_as_it_was(pipeline, tmp_path):
    judge, scenes = load_library_judge(), list(test_scenes("fox", "paper", 6, 2))
    before = draw(pipeline, scenes)
    sources = [Source(LIBRARY / f"{name}.safetensors") for name in ("fox", "paper")]
    with fused(pipeline, sources):
        inside = draw(pipeline, scenes)
    readings = judge.read(inside)
    assert sum(r.character == "fox" for r in readings) >= 3 <= sum(r.style == "paper" for r in readings)
    assert not any(r.character == "fox" or r.style == "paper" for r in judge.read(before))
    load_lora(pipeline, fuse(sources, tmp_path / "both.safetensors").path)
    loaded = draw(pipeline, scenes)
    remove_lora(pipeline)
    for pictures_, others in ((inside, loaded), (before, draw(pipeline, scenes))):
        for a, b in zip(pictures_, others, strict=True):
            assert np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1


def test_an_error_while_loading_leaves_no_lora_behind(pipeline, tmp_path):
    with pytest.raises(QwenlabError), fused(pipeline, [Source(tmp_path / "none.safetensors")]):
        pass
    with pytest.raises(ZeroDivisionError), fused(pipeline, [Source(LIBRARY / "fox.safetensors")]):
        raise ZeroDivisionError
    load_lora(pipeline, LIBRARY / "neon.safetensors")
    remove_lora(pipeline)


def test_trained_loras_are_summed_exactly_and_compressed_optimally(tmp_path):
    names = ("rabbit", "paper")
    sources = [Source(LIBRARY / f"{name}.safetensors", weight) for name, weight in zip(names, (0.9, -0.6), strict=True)]
    single = [updates(source.path) for source in sources]
    wanted = {layer: 0.9 * update - 0.6 * single[1][layer] for layer, update in single[0].items()}
    joined = updates(fuse(sources, tmp_path / "joined.safetensors").path)
    small = fuse(sources, tmp_path / "small.safetensors", method="svd", rank=8)
    for layer, update in updates(small.path).items():
        if not wanted[layer].any():
            continue  # the last block's text stream feeds nothing and was not trained
        assert relative(joined[layer], wanted[layer]) < 1e-6
        tail = torch.linalg.svdvals(wanted[layer])[8:].norm()
        assert (update - wanted[layer]).norm() == pytest.approx(tail.item(), rel=1e-5)
