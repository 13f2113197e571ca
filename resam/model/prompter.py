"""The prompter: a small head on the embedding that finds instances without clicks.

For each class a heat map of instance centres, and at every cell the box of the instance whose centre it is (centres
after CenterNet, Zhou et al., arXiv 1904.07850; a box as its distances to left, top, right and bottom after FCOS, Tian
et al., arXiv 1904.01355). The maps have twice the tokens' grid, so that neighbours a token apart are two peaks. What
becomes of the peaks is `resam_runtime.segment.peaks`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

WIDTH = 64  # channels of the head
PRIOR = 0.01  # what a heat map says before it has learned anything: few cells are centres


class Prompter(nn.Module):
    """embedding (B, C, G, G) -> heat (B, K, 2G, 2G) logits per class, boxes (B, 4, 2G, 2G) distances in tile pixels.

    Cell (i, j) stands for the tile's point ((j + 1/2) s - 1/2, (i + 1/2) s - 1/2), with s = S / 2G the side of a cell;
    its box reaches from there by boxes[:, (i, j)] to the left, top, right and bottom.
    """

    def __init__(self, embedding_dim: int, classes: int, image_size: int, grid: int, width: int = WIDTH) -> None:
        """image_size: S; grid: G; classes: K, at least 1 (`ValueError`)."""
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes: expected at least 1, got {classes}")
        self.classes, self.image_size = classes, image_size
        self.cell = image_size / (2 * grid)
        self.reduce = nn.Conv2d(embedding_dim, width, 1)  # the encoder's neck has looked at neighbours already
        self.enlarge = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.heat = nn.Conv2d(width, classes, 1)
        self.boxes = nn.Conv2d(width, 4, 1)
        self.largest = math.log(image_size / self.cell)  # no box reaches beyond its tile
        nn.init.constant_(self.heat.bias, math.log(PRIOR / (1 - PRIOR)))  # type: ignore[arg-type]
        nn.init.constant_(self.boxes.bias, math.log(2.0))  # type: ignore[arg-type]

    def forward(self, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        x = torch.relu(self.reduce(embedding))
        x = torch.relu(self.enlarge(x))
        x = torch.relu(self.mix(x))
        return self.heat(x), self.cell * torch.exp(self.boxes(x).clamp(max=self.largest))


def box_corners(distances: torch.Tensor, cell: float) -> torch.Tensor:
    """Distances (B, 4, H, W) -> corners (B, 4, H, W) x0, y0, x1, y1, all in tile pixels; cell: side of a cell."""
    height, width = distances.shape[-2:]
    x = (torch.arange(width, device=distances.device, dtype=distances.dtype) + 0.5) * cell - 0.5
    y = (torch.arange(height, device=distances.device, dtype=distances.dtype) + 0.5) * cell - 0.5
    left, top, right, bottom = distances.unbind(1)
    return torch.stack((x - left, y[:, None] - top, x + right, y[:, None] + bottom), dim=1)


def prompter_of(sam: nn.Module) -> Prompter | None:
    """The prompter of a SAM, which lives in it as the module `prompter`; None where it has none."""
    head = getattr(sam, "prompter", None)
    return head if isinstance(head, Prompter) else None


def load_prompter(state: Mapping[str, torch.Tensor], image_size: int, grid: int) -> Prompter:
    """The prompter of a state dict; `ValueError` naming the tensor that is missing or does not fit."""
    try:
        width, channels = state["reduce.weight"].shape[:2]
        head = Prompter(int(channels), int(state["heat.weight"].shape[0]), image_size, grid, int(width))
        head.load_state_dict(dict(state))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"holds no prompter ({str(error).splitlines()[-1].strip()})") from None
    return head
