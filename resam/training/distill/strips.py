"""What the report shows of a window: the tile with its points, the teacher's masks, the student's."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from resam.training.distill.step import Model
from resam.training.distill.windows import TwoTiles
from resam.training.pictures import draw_logits, draw_points, instance_colours
from resam.training.report import SIDE


@torch.no_grad()
def two_masks(teacher: Model, student: Model, tiles: TwoTiles) -> NDArray[np.uint8]:
    """The three side by side, (h, 3 * SIDE, 3) uint8 RGB, without the padding; a colour for each point."""
    small = np.asarray(cv2.resize(tiles.student, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)
    colours = instance_colours(len(tiles.points))
    pointed = np.ascontiguousarray(small.copy())
    draw_points(pointed, tiles.points[:, None] * SIDE - 0.5, np.ones((len(tiles.points), 1)), colours)
    panels = [pointed]
    for model, image in ((teacher, tiles.teacher), (student, tiles.student)):
        device = model.encoder.pixel_mean.device
        points = torch.from_numpy(tiles.points)[:, None].to(device) * model.size - 0.5
        labels = torch.ones(points.shape[:2], dtype=torch.int32, device=device)
        logits, _ = model.decoder(model.encoder(torch.from_numpy(image)[None].to(device)), points, labels)
        panels.append(draw_logits(small, logits.float().cpu().numpy(), 0.0, colours))
    return np.hstack(panels)[: max(1, round(tiles.filled[0] * SIDE))]
