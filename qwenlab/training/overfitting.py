"""Does a LoRA understand or copy? Measures for a run's checkpoints, and two popular ones that mislead.

The first measure is the held-out flow loss by noise level (`qwenlab.training.held_out_loss`): it needs no pictures. The
others look at generated pictures: how near they are to training pictures, and how different from each other. All
distances are between small blurred versions of the pictures, so that a copy is found even when it is shifted by a few
pixels or compressed, and another scene of the same character is not one.

N pictures, F numbers that describe one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

SIDE = 16  # cells of the small version: of 8 pixels at 128 x 128


def small(images: Sequence[Image.Image]) -> np.ndarray:
    """Pictures -> (N, SIDE * SIDE * 3) float64 in [0, 1]: mean colours of the cells, row by row."""
    boxes = [image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX) for image in images]
    return np.stack([np.asarray(box, dtype=np.float64).ravel() / 255 for box in boxes])


def distances(images: Sequence[Image.Image], others: Sequence[Image.Image]) -> np.ndarray:
    """Root mean square difference of the small versions, (N, M), 0 (the same) to 1."""
    a, b = small(images), small(others)
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0) / a.shape[1])


def copied_share(
    generated: Sequence[Image.Image], training: Sequence[Image.Image], fresh: Sequence[Image.Image]
) -> float:
    """Share of generated pictures that lie nearer to a training picture than 95% of fresh real pictures do.

    fresh: real pictures that were not trained on, of the same prompts as the generated ones; without memorisation about
    0.05 is to be expected. The baseline of real pictures is what makes the number mean something (after Carlini et al.,
    Extracting Training Data from Diffusion Models, arXiv 2301.13188, and Somepalli et al., arXiv 2212.03860).
    """
    threshold = np.quantile(distances(fresh, training).min(axis=1), 0.05)
    return float((distances(generated, training).min(axis=1) < threshold).mean())


def diversity(pictures: Sequence[Sequence[Image.Image]]) -> float:
    """Mean distance between two pictures of one prompt; one sequence a prompt, of at least two pictures."""
    means = []
    for same in pictures:
        if len(same) < 2:
            raise ValueError(f"{len(same)} picture of a prompt: diversity needs two or more")
        means.append(distances(same, same)[np.triu_indices(len(same), 1)].mean())
    return float(np.mean(means))


def psnr(image: Image.Image, other: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB of two pictures of one size; infinite when they are equal.

    Right for two versions of *one* picture, such as before and after compression. A sample and a training picture are
    two pictures: see lesson 04.
    """
    a, b = (np.asarray(x.convert("RGB"), dtype=np.float64) for x in (image, other))
    error = ((a - b) ** 2).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def frechet_distance(features: np.ndarray, others: np.ndarray) -> float:
    """Distance of two normal distributions fitted to features (N, F) and (M, F): the FID of Heusel et al. (2017).

    With Inception features it is the FID of papers; with any other features the numbers differ and the faults are the
    same. It is biased upwards by about F / N: far from 0 between samples of one distribution when N is small.
    """
    mean, other_mean = features.mean(axis=0), others.mean(axis=0)
    covariance, other_covariance = np.cov(features, rowvar=False), np.cov(others, rowvar=False)
    # trace((C C')^(1/2)) by the eigenvalues of C^(1/2) C' C^(1/2), which is symmetric: C itself is singular for N <= F.
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ other_covariance @ root)
    difference = ((mean - other_mean) ** 2).sum()
    return float(difference + np.trace(covariance + other_covariance) - 2 * np.sqrt(np.maximum(inner, 0)).sum())
