"""The exported graphs against segment-anything's own prompt encoder and mask decoder, and Refine written out anew."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from resam.model.bases import load_base
from resam.synthetic import generate_scene
from resam_export.models import open_session, run_session

from .conftest import Traced

Array = NDArray[Any]
Prompt = tuple[list[tuple[float, float]], list[int], tuple[float, float, float, float] | None]  # points, labels, box

POINTS: list[Prompt] = [
    ([(40.0, 52.5)], [1], None),
    ([(200.25, 31.0), (180.0, 60.0), (12.0, 250.0)], [1, 1, 0], None),
    ([(0.0, 255.0), (128.0, 128.0)], [1, 0], None),
]
BOXES: list[Prompt] = [([], [], (30.5, 40.0, 99.25, 80.0)), ([], [], (0.0, 0.0, 255.0, 255.0))]
BOTH: list[Prompt] = [
    ([(60.0, 60.0)], [1], (30.5, 40.0, 99.25, 80.0)),
    ([(200.0, 31.0), (1.0, 1.0)], [1, 0], (150.0, 3.0, 251.0, 77.0)),
]


KINDS = ["points", "boxes", "both", "all"]


class Sam:
    """segment-anything's modules as they come, one prompt at a time."""

    def __init__(self) -> None:
        self.sam = load_base("tiny").sam
        image = generate_scene(5, 256, "harbour").image
        with torch.no_grad():
            self.embedding = self.sam.image_encoder(self.sam.preprocess(torch.from_numpy(image).permute(2, 0, 1))[None])

    @torch.no_grad()
    def decode(self, prompt: Prompt) -> tuple[Array, float]:
        """Mask logits (M, M) and predicted IoU."""
        points, labels, box = prompt
        given = (torch.tensor([points]), torch.tensor([labels])) if points else None
        boxes = None if box is None else torch.tensor([box])
        sparse, dense = self.sam.prompt_encoder(points=given, boxes=boxes, masks=None)
        masks, scores = self.sam.mask_decoder(
            image_embeddings=self.embedding,
            image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return masks[0, 0].numpy(), float(scores[0, 0])


@pytest.fixture(scope="module")
def sam() -> Sam:
    return Sam()


def feeds(sam: Sam, prompts: list[Prompt], padding: int = 0) -> dict[str, Array]:
    """All prompts in one batch, as the graphs take them; `padding` more tokens than needed."""
    rows = []
    for points, labels, box in prompts:
        corners = [] if box is None else [box[:2], box[2:]]
        rows.append(([*points, *corners], [*labels, 2, 3][: len(points) + len(corners)]))
    longest = max(len(labels) for _, labels in rows) + padding
    coords = np.full((len(rows), longest, 2), 77.0, np.float32)  # where padding lies must not matter
    codes = np.full((len(rows), longest), -1, np.int32)
    for row, (places, kinds) in enumerate(rows):
        coords[row, : len(places)], codes[row, : len(kinds)] = places, kinds
    return {"embedding": sam.embedding.numpy(), "point_coords": coords, "point_labels": codes}


def close(found: Array, wanted: Array) -> None:
    assert np.linalg.norm(found - wanted) <= 2e-5 * np.linalg.norm(wanted)


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("prompts", [POINTS, BOXES, BOTH, POINTS + BOXES + BOTH], ids=KINDS)
def test_the_decoder_equals_segment_anything(sam: Sam, traced: Traced, prompts: list[Prompt], padding: int) -> None:
    found = run_session(open_session(traced.models["decoder"]), feeds(sam, prompts, padding))
    for row, prompt in enumerate(prompts):
        mask, score = sam.decode(prompt)
        close(found["masks"][row], mask)
        assert found["scores"][row] == pytest.approx(score, abs=2e-5)


def refined_boxes(logits: Array, tau: float = 0.3) -> list[tuple[float, float, float, float] | None]:
    """Refine and the tight box of each mask (N, M, M), straight from their definition; None where less than
    15 % is left."""
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    entropy = -(p * np.log(np.maximum(p, 1e-300)) + (1 - p) * np.log(np.maximum(1 - p, 1e-300)))
    kept = p * (1 - entropy) > tau
    alone = kept & (kept.sum(axis=0) == 1)
    lost = kept & ~alone
    low, high = 0.5, 1 - 1e-12  # the logit at which p (1 - H) is tau
    for _ in range(100):
        middle = (low + high) / 2
        h = -middle * math.log(middle) - (1 - middle) * math.log(1 - middle)
        low, high = (middle, high) if middle * (1 - h) <= tau else (low, middle)
    threshold, cell = math.log(high / (1 - high)), 256 / logits.shape[-1]
    boxes: list[tuple[float, float, float, float] | None] = []
    for mask, mine, gone in zip(logits, alone, lost):
        if not mine.any() or mine.sum() < 0.15 * (mine | gone).sum():
            boxes.append(None)
            continue
        values = np.where(gone, -1e9, mask)
        edges = []
        for axis in (0, 1):  # along x, along y: the largest logit of each column, of each row
            profile = values.max(axis=axis)
            inside = np.flatnonzero(profile > threshold)
            for edge, step in ((inside[0], -1), (inside[-1], 1)):
                outer = edge + step
                reach = 0.5
                if 0 <= outer < len(profile) and profile[outer] > -1e8:
                    reach = (profile[edge] - threshold) / (profile[edge] - profile[outer])
                edges.append(min(max((edge + step * reach + 0.5) * cell - 0.5, 0.0), 255.0))
        boxes.append((edges[0], edges[2], edges[1], edges[3]))
    return boxes


def test_the_loop_equals_segment_anything_and_refine_by_its_definition(sam: Sam, traced: Traced) -> None:
    # two on one object take (nearly) all from each other
    twins: list[Prompt] = [([(120.0, 130.0)], [1], None), ([(120.5, 130.0)], [1], None)]
    prompts = [*POINTS, *twins]
    found = run_session(open_session(traced.models["loop"]), feeds(sam, prompts, padding=1))
    coarse = [sam.decode(prompt) for prompt in prompts]
    boxes = refined_boxes(np.stack([mask for mask, _ in coarse]))
    assert boxes[3] is None
    assert boxes[4] is None
    assert sum(box is not None for box in boxes) >= 2, "an example without boxes shows little"
    for row, ((points, labels, _), box) in enumerate(zip(prompts, boxes)):
        mask, score = sam.decode((points, labels, box))
        close(found["coarse_masks"][row], coarse[row][0])
        assert found["coarse_scores"][row] == pytest.approx(coarse[row][1], abs=2e-5)
        assert found["boxes"][row] == pytest.approx(box or (0, 0, 0, 0), abs=0.01)
        close(found["masks"][row], mask)
        assert found["scores"][row] == pytest.approx(score, abs=2e-5)
