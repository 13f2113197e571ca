"""The images that the tiny base learns from."""

from __future__ import annotations

import numpy as np

from resam.pretrain.procedural import MIN_AREA, generate


def test_a_seed_gives_the_same_image_again_and_another_seed_another_one() -> None:
    first, again, other = generate(7, 96), generate(7, 96), generate(8, 96)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.image, other.image)


def test_masks_are_disjoint_large_enough_and_match_their_count() -> None:
    for seed in range(20):
        image = generate(seed, 128)
        assert image.image.shape == (128, 128, 3)
        assert image.image.dtype == np.uint8
        assert image.masks.shape == (image.count, 128, 128)
        assert image.masks.sum(0).max() <= 1
        assert image.masks.sum((1, 2)).min() >= MIN_AREA


def test_an_instance_differs_from_what_surrounds_it() -> None:
    """Over many instances the step in colour across the outline is far above the step one ring further out."""
    across, outside = [], []
    for seed in range(30):
        image = generate(seed, 128)
        pixels = image.image.astype(float)
        for mask in image.masks:
            near = _grown(mask, 2) & ~mask & (image.labels == 0)
            far = _grown(mask, 4) & ~_grown(mask, 2) & (image.labels == 0)
            if near.sum() < 20 or far.sum() < 20:
                continue
            across.append(np.linalg.norm(pixels[mask].mean(0) - pixels[near].mean(0)))
            outside.append(np.linalg.norm(pixels[near].mean(0) - pixels[far].mean(0)))
    assert len(across) > 50
    assert np.median(across) > 2 * np.median(outside)


def _grown(mask: np.ndarray, steps: int) -> np.ndarray:
    grown = mask.copy()
    for _ in range(steps):
        padded = np.pad(grown, 1)
        grown = padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return grown
