"""The two training steps that `resam-bench train` compares, each an object that a worker holds.

Both see the same random weights, image, points and target masks. With random weights refined masks mean nothing, so the
targets are given (discs around the points): all the work of Coarse, Refine and Requery is done, and what it yields is
replaced before the losses, in both alike. So every instance has a target and neither step is spared any.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from resam_benchmarks.baselines.weights import Weights


@dataclass(frozen=True, eq=False)
class StepInput:
    """One image for a step. weak, strong: (S, S, 3) uint8; coords: (N, 1, 2) tile pixels; truth: (N, S, S) bool."""

    weak: NDArray[np.uint8]
    strong: NDArray[np.uint8]
    coords: NDArray[np.float32]
    truth: NDArray[np.bool_]

    @classmethod
    def make(cls, size: int, instances: int, seed: int) -> StepInput:
        """A synthetic scene, its brightened strong view, points anywhere and discs of 1/20 of the side around them."""
        from resam.synthetic.scenes import generate_scene

        rng = np.random.default_rng(seed)
        weak = generate_scene(seed, size).image
        strong = np.clip(weak.astype(np.int16) + 24, 0, 255).astype(np.uint8)
        coords = rng.uniform(size * 0.05, size * 0.95, (instances, 1, 2)).astype(np.float32)
        rows, columns = np.mgrid[:size, :size]
        truth = np.stack([np.hypot(columns - x, rows - y) <= size / 40 for x, y in coords[:, 0]])
        return cls(weak, strong, coords, truth)


class TrainingStep(Protocol):
    """One optimiser step on one image; returns the loss."""

    def step(self, data: StepInput) -> float: ...


@dataclass(frozen=True)
class StepSettings:
    """device: "cpu" or "cuda"; precision "fp32" or "bf16" (autocast); LoRA of `rank` in every block."""

    device: str = "cpu"
    precision: str = "fp32"
    rank: int = 4
    threads: int | None = None

    def autocast(self) -> Any:
        """The context that a step runs in."""
        return torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.precision == "bf16")


class OurStep:
    """`resam.training`: weak view encoded once, masks at the mask grid, folded attention, chunked decoding."""

    def __init__(self, weights: Weights, settings: StepSettings) -> None:
        from resam.model.decoder import PromptDecoder
        from resam.model.encoder import ImageEncoder
        from resam.model.lora import add_lora
        from resam.model.refine_requery import RefineRequery
        from resam.training.devices import keep_freed_memory
        from resam.training.step import ChunkedDecoder

        _use(settings)
        if settings.device == "cpu":
            keep_freed_memory()  # as `make_fabric` does
        base = weights.load()
        self.settings, self._grid = settings, base.architecture.mask_size
        parameters = add_lora(base.sam.image_encoder, settings.rank)
        self._encoder = ImageEncoder(base.sam).to(settings.device)
        self._decoder = PromptDecoder(base.sam).to(settings.device)
        chunked: Any = ChunkedDecoder(self._decoder)
        self._loop = RefineRequery(chunked)
        self._optimizer = torch.optim.AdamW(parameters, lr=1e-4)
        self._queue = torch.zeros(0, base.architecture.embedding_dim, device=settings.device)

    def step(self, data: StepInput) -> float:
        """See `TrainingStep`."""
        from resam.training.losses import loss_weights
        from resam.training.losses.alignment import push
        from resam.training.options import TrainOptions
        from resam.training.step import pseudo_masks, reinforce
        from resam.training.tile import TileTensors

        device, grid = self.settings.device, self._grid
        cell = data.truth.shape[1] // grid
        shares = data.truth.reshape(len(data.truth), grid, cell, grid, cell).mean(axis=(2, 4), dtype=np.float32)
        tile = TileTensors(
            weak=torch.from_numpy(data.weak)[None].to(device),
            strong=torch.from_numpy(data.strong)[None].to(device),
            coords=torch.from_numpy(data.coords).to(device),
            labels=torch.ones(len(data.coords), 1, dtype=torch.int32, device=device),
            extent=(grid, grid),
            given=torch.from_numpy(shares).to(device),
        )
        with self.settings.autocast():
            pseudo = pseudo_masks(self._encoder, self._loop, tile)
        with self.settings.autocast():
            options = TrainOptions(beta=2.0)
            weights = loss_weights(options, 0.5)  # half of beta
            losses = reinforce(self._encoder, self._decoder, tile, pseudo, weights, self._queue, options)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._queue = push(self._queue, losses.remembered, 128)
        return losses.total


def timed_step(held: TrainingStep, data: StepInput) -> tuple[float, float, int | None]:
    """Seconds, loss and (on CUDA) peak device bytes of one step; runs in the worker."""
    on_cuda = torch.cuda.is_available() and torch.cuda.memory_allocated() > 0
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start = time.perf_counter()
    loss = held.step(data)
    if on_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, loss, torch.cuda.max_memory_allocated() if on_cuda else None


def _use(settings: StepSettings) -> None:
    if settings.threads:
        torch.set_num_threads(settings.threads)
