"""The trainer of the method: `resam.training.epochs` walks; here is what a tile teaches, and the queue of embeddings.

On several devices the embeddings for the queue are gathered too, in the order of the batch: the result is that of one
device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning_fabric import Fabric

from resam.data.training_set import TileViews, TrainingSet
from resam.model.bases import Base
from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam.model.parts import adapter_state, add_parts, check_parts, load_adapter
from resam.model.refine_requery import RefineRequery
from resam.training.epochs import EpochTrainer
from resam.training.losses import LOSSES, loss_weights
from resam.training.losses.alignment import push, queue_width
from resam.training.options import TrainOptions
from resam.training.prompter.joint import JointTiles
from resam.training.step import ChunkedDecoder, StepLosses, agreement, pseudo_masks, reinforce
from resam.training.tile import Pseudo, to_device
from resam_runtime.common.errors import ResamError

MEANS = (*(loss.name for loss in LOSSES), "total")
COUNTS = ("tiles", "instances", "labelled", "looped")


class Trainer(EpochTrainer[TileViews]):
    """Adapts `base` in place: the parts of `resam.model.parts` that the options want are trained, all else is frozen.

    The means of an epoch: the losses, `beta`, `labelled` (share of instances with a pseudo-label), `agreement` (IoU of
    coarse and final masks of the weak view, if that was looked at).
    """

    summed = (*MEANS, *COUNTS, "agreement")

    def __init__(self, base: Base, samples: TrainingSet, options: TrainOptions, fabric: Fabric) -> None:
        self.base, self.samples, self.options = base, samples, options
        check_base(base, options)
        base.sam.requires_grad_(False)
        self.joint = JointTiles(samples) if options.joint else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            if self.joint is not None:
                base.sam.add_module("prompter", self.joint.head().to(fabric.device))
            trained = add_parts(base.sam, options)
        self.encoder = ImageEncoder(base.sam).to(fabric.device)
        self.decoder = PromptDecoder(base.sam).to(fabric.device)
        chunked = ChunkedDecoder(self.decoder, options.chunk)
        self.loop = RefineRequery(chunked, options.tau, options.requery, options.rounds)  # type: ignore[arg-type]
        super().__init__(fabric, options, trained)
        width = queue_width(options, base.architecture.embedding_dim)
        self.queue = torch.zeros(0, width, device=fabric.device)
        self._fresh: list[torch.Tensor] = []  # for the queue, of the tiles of this step
        self._beta = 0.0

    def order(self) -> list[int]:
        self.samples.start_epoch(self.epoch)
        return self.samples.order(self.epoch)

    def load(self, number: int) -> TileViews:
        return self.samples.load(number, self.epoch)

    def learn(self, view: TileViews, progress: float, scale: float, number: int) -> Mapping[str, float]:
        weights = loss_weights(self.options, progress)
        losses, pseudo = self._tile(view, weights, scale, number)
        self._fresh.append(losses.remembered)
        self._beta = weights["alignment"]
        return _counted(losses, pseudo)

    def means(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {**_means(sums), "beta": self._beta}

    def after_step(self, count: int) -> None:
        fresh, self._fresh = self._fresh, []
        if self.options.ssa != "off":
            for part in self._gather(fresh, count):
                self.queue = push(self.queue, part, self.options.queue)

    def _tile(
        self, view: TileViews, weights: Mapping[str, float], scale: float, number: int
    ) -> tuple[StepLosses, Pseudo]:
        options = self.options
        tile = to_device(view, self.fabric.device, self.base.architecture.mask_size, options.own_boxes)
        if self.joint is not None:
            tile = dataclasses.replace(tile, wanted=self.joint.wanted(number, view.mirror, self.fabric.device))
        look = tile.given is None or options.ssa != "off"
        # Two contexts: autocast remembers weights cast without gradient until its context ends.
        with self._teacher(), self.fabric.autocast():
            pseudo = pseudo_masks(self.encoder, self.loop, tile, options.pseudo, options.calibrate_negatives, look)
        try:
            with self.fabric.autocast():
                losses = reinforce(
                    self.encoder,
                    self.decoder,
                    tile,
                    pseudo,
                    weights,
                    self.queue,
                    options,
                    scale=scale,
                    requery=self.loop if options.teach_requery else None,
                    sam=self.base.sam,
                )
        except FloatingPointError as error:
            where = f"epoch {self.epoch + 1}, step {self.step + 1}, tile {number} ({view.name})"
            raise ResamError(f"{where}: loss is not finite ({error}); lower the learning rate") from None
        return losses, pseudo

    def _gather(self, fresh: list[torch.Tensor], count: int) -> list[torch.Tensor]:
        """The embeddings of all tiles of a step, (K, C) each, in the order of the batch, from all devices."""
        world = self.fabric.world_size
        if world == 1:
            return fresh
        each, length = math.ceil(count / world), max(1, self.options.queue)
        packed = torch.zeros(each, length, self.queue.shape[1], device=self.fabric.device)
        sizes = torch.zeros(each, dtype=torch.long, device=self.fabric.device)
        for i, embeddings in enumerate(fresh):
            kept = embeddings[-length:]
            packed[i, : len(kept)], sizes[i] = kept, len(kept)
        everything, all_sizes = self.fabric.all_gather(packed), self.fabric.all_gather(sizes)
        return [everything[rank, i, : all_sizes[rank, i]] for i in range(each) for rank in range(world)]  # type: ignore[call-overload]

    def _teacher(self) -> contextlib.AbstractContextManager[None]:
        return self.averaged() if self.options.teacher == "average" else contextlib.nullcontext()

    def adapter_state(self) -> dict[str, torch.Tensor]:
        """The averaged tensors of the adapter, copied."""
        with self.averaged():
            return {name: value.clone() for name, value in adapter_state(self.base.sam).items()}

    def state(self) -> dict[str, Any]:
        return super().state() | {"adapter": adapter_state(self.base.sam), "queue": self.queue}

    def load_state(self, state: dict[str, Any]) -> None:
        load_adapter(self.base.sam, state["adapter"])
        super().load_state(state)
        self.queue = state["queue"].to(self.fabric.device)


def check_base(base: Base, options: TrainOptions) -> None:
    """`ResamError` for a base that cannot take the options' parts."""
    try:
        check_parts(base.sam, options)
    except ValueError as error:
        raise ResamError(f"option {error}") from None


def _counted(losses: StepLosses, pseudo: Pseudo) -> dict[str, float]:
    counted = losses.values | {"total": losses.total, "tiles": 1, "instances": losses.instances}
    counted["labelled"] = losses.labelled
    if pseudo.output is not None:
        counted |= {"looped": losses.instances, "agreement": float(agreement(pseudo.output).sum())}
    return counted


def _means(sums: Mapping[str, float]) -> dict[str, float]:
    means = {name: sums[name] / max(1.0, sums["tiles"]) for name in MEANS}
    means["labelled"] = sums["labelled"] / max(1.0, sums["instances"])
    return means | ({"agreement": sums["agreement"] / sums["looped"]} if sums["looped"] else {})
