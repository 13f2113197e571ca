"""The loop with masks made in full only where their edges may lie: for CPUs, where upscaling takes half of its time.

Coarse masks. Each image token gives one of its 16 cells first. All are made where those of the token and of its eight
neighbours leave room for an edge, and around every positive point: an object may be smaller than a token. Elsewhere
the one cell stands for the 16.

Final masks. They are made in the same way, but only in the rectangle around the coarse mask and the box that was asked
with, and `MARGIN` tokens beyond it; the rest is outside of the mask. A prompt without a box was asked before, and keeps
its coarse mask.

Predicted IoUs are not touched. The rows that are made differ from prompt to prompt, which TensorRT is not told here.
"""

from __future__ import annotations

import math

import torch
from segment_anything.modeling import Sam
from torch.nn import functional as F

from resam.model.decoder import PromptDecoder
from resam.model.refine_requery import Answers, RefineRequery, profiles

STRETCH, SLACK = 1.0, 0.5  # how far beyond the logits known around a token others may lie: of their range, and more
MARGIN = 4  # image tokens beyond coarse mask and box that the final mask may reach
OUTSIDE = -20.0  # the logit of cells farther away


class EdgeDecoder(PromptDecoder):
    """A `PromptDecoder` that makes masks in full where they may cross a logit from 0 to `edges_to`, which is at least
    0. `forward` takes one image."""

    def __init__(self, sam: Sam, edges_to: float) -> None:
        super().__init__(sam)
        self.edges_to = edges_to

    def _masks(
        self, keys: torch.Tensor, weights: torch.Tensor, coords: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        return self._made(self._sample(keys, weights.unsqueeze(2)), keys, weights, coords, labels)

    def around(
        self, before: torch.Tensor, embedding: torch.Tensor, coords: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and scores of prompts (N, P, 2), (N, P) whose last two places hold a box, or padding at 0; without it
        they had the masks `before`, (N, 4G, 4G)."""
        keys, weights, scores = self._read(embedding, coords, labels, True)
        count, tokens, _ = keys.shape
        places, picked, own = _picked(self._within(before, coords), keys, weights)
        made = self._sample(picked.unsqueeze(1), own)
        sample = keys.new_full((count * tokens,), OUTSIDE).index_put((places,), made[:, 0]).reshape(count, tokens)
        return self._made(sample, keys, weights, coords, labels), scores

    def _within(self, before: torch.Tensor, coords: torch.Tensor) -> torch.Tensor:
        """The tokens (N, HW) around masks (N, 4G, 4G) and the boxes that prompts end in."""
        grid = before.shape[-1] // 4
        inside = profiles(before).reshape(-1, 2, grid, 4).amax(dim=3) > 0
        box = coords[:, -2:].transpose(1, 2)  # (N, 2, corners)
        centres, side = self._centres(coords, grid), self.image_size / grid
        inside = inside | ((centres > box[..., :1] - side / 2) & (centres < box[..., 1:] + side / 2))
        reached = F.max_pool1d(inside.to(before.dtype), 2 * MARGIN + 1, stride=1, padding=MARGIN)
        columns, rows = reached.unbind(dim=1)
        return (rows.unsqueeze(2) * columns.unsqueeze(1)).flatten(1) > 0.5

    def _made(
        self,
        sample: torch.Tensor,
        keys: torch.Tensor,
        weights: torch.Tensor,
        coords: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        """Logits (N, 4G, 4G) of image tokens (N, HW, C), of which one cell is known, (N, HW): the others made where an
        edge may be."""
        count, tokens, _ = keys.shape
        grid = math.isqrt(tokens)
        places, picked, own = _picked(self._near_edges(sample, coords, labels), keys, weights)
        features = self._cells(picked.unsqueeze(0)).reshape(-1, 16, weights.shape[1])
        cells = (features @ own).reshape(-1, 2, 2, 2, 2)  # (R, dy1, dx1, dy2, dx2)
        logits = sample.reshape(-1, grid, 1, grid, 1).expand(-1, grid, 4, grid, 4)
        # rows of four cells are written: those of a token are `grid` places apart
        row, column = places // grid, places % grid
        starts = (row.unsqueeze(1) * 4 + torch.arange(4, device=row.device)) * grid + column.unsqueeze(1)  # (R, 4)
        written = cells.transpose(2, 3).reshape(-1, 4)
        return logits.reshape(-1, 4).index_put((starts.reshape(-1),), written).reshape(count, 4 * grid, 4 * grid)

    def _sample(self, tokens: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Image tokens (B, R, C) and weights (B, C/8, 1) -> logits (B, R) of one cell of each, next to its centre."""
        first, norm, activation, second, last_activation = self.mask_decoder.output_upscaling
        x = tokens @ first.weight[:, :, 0, 0] + first.bias
        x = activation(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
        x = last_activation(x @ second.weight[:, :, 1, 1] + second.bias)
        return (x @ weights)[..., 0]

    def _near_edges(self, sample: torch.Tensor, coords: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Whether an edge may cross a token, (N, HW) bool, from one logit of each, (N, HW), and the prompts."""
        grid = math.isqrt(sample.shape[1])
        both = torch.stack((sample, -sample), dim=1).reshape(-1, 2, grid, grid)
        highest, lowest = F.max_pool2d(both, 3, stride=1, padding=1).unbind(dim=1)  # (N, G, G), the second negated
        room = (highest + lowest) * STRETCH + SLACK
        edges = (highest + room > 0) & (lowest + room > -self.edges_to)
        near = (coords.unsqueeze(3) - self._centres(coords, grid)).abs() < 1.5 * self.image_size / grid  # (N, P, 2, G)
        near = near & (labels == 1)[:, :, None, None]
        columns, rows = near.to(sample.dtype).unbind(dim=2)  # (N, P, G)
        return (edges | (rows.transpose(1, 2) @ columns > 0.5)).flatten(1)

    def _centres(self, coords: torch.Tensor, grid: int) -> torch.Tensor:
        """Centres of the image tokens along an axis, in tile pixels, (G,)."""
        places = torch.arange(grid, device=coords.device, dtype=coords.dtype)
        return (places + 0.5) * (self.image_size / grid) - 0.5


def _picked(
    chosen: torch.Tensor, keys: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The places (R,) of the chosen, (N, HW), among image tokens (N, HW, C), these tokens (R, C), and the weights of
    their masks (R, C/8, 1)."""
    count, tokens, channels = keys.shape
    places = chosen.reshape(-1).nonzero()[:, 0]
    return places, keys.reshape(count * tokens, channels)[places], weights[places // tokens].unsqueeze(2)


class EdgeLoop(RefineRequery):
    """A `RefineRequery` whose final masks are made around the coarse ones alone, and of prompts with a box alone."""

    decoder: EdgeDecoder

    def ask_again(
        self, embedding: torch.Tensor, coords: torch.Tensor, labels: torch.Tensor, found: torch.Tensor, coarse: Answers
    ) -> Answers:
        asked = torch.cat((torch.ones_like(found[:1]), found[1:]))  # one at least: a graph cannot decode nothing
        places = asked.nonzero()[:, 0]  # (R,)
        again = self.decoder.around(coarse[0][places], embedding, coords[places], labels[places])
        masks, scores = (before.index_put((places,), after) for before, after in zip(coarse, again, strict=True))
        return masks, scores
