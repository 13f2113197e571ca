"""Baseline `torch`: our own modules, the ones the engine was exported from, run by torch without export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from resam_benchmarks.baselines.baseline import Baseline
from resam_benchmarks.baselines.prompt_by_prompt import LoopSettings
from resam_benchmarks.baselines.torch_device import torch_device
from resam_benchmarks.baselines.weights import Weights
from resam_benchmarks.measure.contender import Image
from resam_benchmarks.measure.metrics import Crop
from resam_runtime.engine.precisions import FP32
from resam_runtime.masks.upsample import grid_boxes, scene_mask
from resam_runtime.tiles.letterbox import letterbox, scene_to_tile
from resam_runtime.tiles.prompt_batch import PromptBatch
from resam_runtime.tiles.tiling import Tile

if TYPE_CHECKING:
    import torch


class TorchModules:
    """See `Contender`. An image of any size is scaled into one tile. Masks reach scene resolution as in the runtime."""

    def __init__(
        self, weights: Weights, settings: LoopSettings, device: str | None = None, threads: int | None = None
    ) -> None:
        import torch

        from resam.model.decoder import PromptDecoder
        from resam.model.encoder import ImageEncoder
        from resam.model.refine_requery import RefineRequery

        if threads:
            torch.set_num_threads(threads)
        self._torch, self._device = torch, torch_device(device)
        sam = weights.load().sam
        self._size = int(sam.image_encoder.img_size)
        self._encoder = ImageEncoder(sam).to(self._device).eval()
        requery: Any = settings.requery
        loop = RefineRequery(PromptDecoder(sam), settings.tau, requery, settings.rounds)
        self._loop = loop.to(self._device).eval()

    def one_pass(self, image: Image) -> bool:
        """Always."""
        return True

    def encode(self, image: Image) -> Any:
        """The embedding (1, C, G, G) and the tile it belongs to."""
        pixels, scale = letterbox(image, self._size)
        with self._torch.inference_mode():
            embedding = self._encoder(self._torch.from_numpy(pixels[None]).to(self._device))
        return embedding, Tile(0, 0, image.shape[1], image.shape[0], scale)

    def loop(self, embedding: Any, points: PromptBatch) -> list[tuple[Crop, float]]:
        """See `Contender`."""
        with self._torch.inference_mode():
            out = self._loop(embedding[0], *self._prompts(points, embedding[1]))
        return self._crops(out.masks, out.scores, embedding[1])

    def segment(self, image: Image, points: PromptBatch) -> Any:
        """See `Contender`."""
        return self.loop(self.encode(image), points)

    def masks(self, result: list[tuple[Crop, float]]) -> list[tuple[Crop, float]]:
        """See `Contender`."""
        return result

    def coarse(self, embedding: Any, points: PromptBatch) -> list[Crop]:
        """See `Contender`."""
        with self._torch.inference_mode():
            masks, scores = self._loop.decoder(embedding[0], *self._prompts(points, embedding[1]))
        return [crop for crop, _ in self._crops(masks, scores, embedding[1])]

    def graph_seconds(self) -> dict[str, float] | None:
        """Not told apart."""
        return None

    def synchronize(self) -> None:
        """See `Contender`."""
        if self._device.startswith("cuda"):
            self._torch.cuda.synchronize()

    def describe(self) -> str:
        """See `Contender`."""
        threads = f", {self._torch.get_num_threads()} threads" if self._device == "cpu" else ""
        return f"resam's modules, torch {self._torch.__version__}, {self._device}{threads}, {FP32.title}"

    def _prompts(self, points: PromptBatch, tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
        coords = self._torch.from_numpy(scene_to_tile(points.coords, tile.scale, tile.origin))
        return coords.to(self._device), self._torch.from_numpy(points.labels.astype(np.int32)).to(self._device)

    def _crops(self, masks: torch.Tensor, scores: torch.Tensor, tile: Tile) -> list[tuple[Crop, float]]:
        logits, values = masks.float().cpu().numpy(), scores.float().cpu().numpy()
        cells = grid_boxes(logits)
        crops = []
        for row in range(len(logits)):
            mask, origin, _ = scene_mask(logits[row], cells[row], tile, self._size)
            crops.append((Crop(mask, origin), float(values[row])))
        return crops


TORCH = Baseline("torch", TorchModules)
