"""Measures of overfitting: copies are found, other scenes are not copies, and popular measures fail as described."""

import io

import numpy as np
import pytest
from PIL import Image, ImageChops

from qwenlab.lab import world
from qwenlab.lab.judge import load_judge
from qwenlab.lab.judge.reading import judge_features
from qwenlab.lab.world.sample import character_test_scenes, sample_scenes
from qwenlab.training.overfitting import copied_share, distances, diversity, frechet_distance, psnr, small


def renderings(scenes, size=128):
    return [Image.fromarray(world.render(scene, size).image) for scene in scenes]


@pytest.fixture(scope="module")
def training():
    return renderings(sample_scenes())


@pytest.fixture(scope="module")
def fresh():
    return renderings(character_test_scenes(60, 5))


def damaged(image, number):
    """A copy: shifted by two pixels, in noise, compressed."""
    rng = np.random.default_rng(number)
    shifted = np.asarray(ImageChops.offset(image, 2, 1), int)
    noisy = np.clip(shifted + rng.normal(0, 8, shifted.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=60)
    return Image.open(buffer)


def test_copies_are_found_even_when_damaged(training, fresh):
    copies = [damaged(image, number) for number, image in enumerate(training[:30])]
    assert copied_share(copies, training, fresh) == 1.0
    nearest = distances(copies, training).argmin(axis=1)
    assert nearest.tolist() == list(range(30))


def test_other_pictures_of_the_character_are_no_copies(training, fresh):
    others = renderings(character_test_scenes(100, 77))
    assert copied_share(others, training, fresh) <= 0.12  # 5 of 100 to be expected
    half = [*others[:30], *(damaged(image, 1) for image in training[:30])]
    assert copied_share(half, training, fresh) == pytest.approx(0.5, abs=0.07)


def test_distances_are_root_mean_square_differences():
    black, grey = Image.new("RGB", (32, 32)), Image.new("RGB", (32, 32), (51, 51, 51))
    np.testing.assert_allclose(distances([black, grey], [black]), [[0], [0.2]], atol=1e-7)
    assert small([black, grey]).shape == (2, 16 * 16 * 3)


def test_diversity_is_the_mean_distance_within_a_prompt():
    black, grey = Image.new("RGB", (32, 32)), Image.new("RGB", (32, 32), (51, 51, 51))
    assert diversity([[black, black], [black, grey]]) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="two or more"):
        diversity([[black]])


def test_psnr_is_that_of_the_formula():
    black, grey = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), (51, 51, 51))
    assert psnr(black, grey) == pytest.approx(20 * np.log10(5)) and psnr(grey, grey) == float("inf")


def test_frechet_distance_of_normal_samples():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(20_000, 3)), rng.normal(size=(20_000, 3)) * 2 + 1
    # |mean difference|^2 + F (1 + 4 - 2 * 2)
    assert frechet_distance(a, b) == pytest.approx(3 + 3, rel=0.05)


def test_frechet_distance_of_equal_distributions_is_far_from_zero_at_sixty():
    rng = np.random.default_rng(1)
    pictures = [world.render(world.sample_scene(rng), 128).image for _ in range(480)]
    features = judge_features(load_judge(), [Image.fromarray(picture) for picture in pictures])
    assert features.shape == (480, 128)
    few, many = frechet_distance(features[:60], features[60:120]), frechet_distance(features[:240], features[240:])
    assert few > 2 * many > 0
