"""The trainer: epochs of steps over a training set, the weights' average, and everything needed to go on later.

One step takes `batch` tiles. On several devices each takes its share of them and the gradients (a few hundred kB) are
summed, as are the embeddings for the queue, in the order of the batch: the result is that of one device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from lightning_fabric import Fabric

from resam.data.training_set import TileViews, TrainingSet
from resam.model.bases import Base
from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam.model.parts import adapter_state, add_parts, check_parts, load_adapter
from resam.model.refine_requery import RefineRequery
from resam.training.losses import LOSSES, loss_weights
from resam.training.losses.alignment import push, queue_width
from resam.training.options import TrainOptions
from resam.training.prompter.joint import JointTiles
from resam.training.step import ChunkedDecoder, StepLosses, agreement, pseudo_masks, reinforce
from resam.training.tile import Pseudo, to_device
from resam_runtime.common.errors import ResamError

AHEAD = 4  # samples loaded while a step runs
MEANS = (*(loss.name for loss in LOSSES), "total")
COUNTS = ("tiles", "instances", "labelled", "looped")


class Trainer:
    """Adapts `base` in place: the parts of `resam.model.parts` that the options want are trained, all else is frozen.

    `step`: optimiser steps so far. `epoch`: epochs so far.
    """

    def __init__(self, base: Base, samples: TrainingSet, options: TrainOptions, fabric: Fabric) -> None:
        self.base, self.samples, self.options, self.fabric = base, samples, options, fabric
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
        self.parameters = [parameter for group in trained for parameter in group.parameters]
        groups = [{"params": list(group.parameters), "factor": group.rate} for group in trained]
        self.optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, weight_decay=options.weight_decay)
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        width = queue_width(options, base.architecture.embedding_dim)
        self.queue = torch.zeros(0, width, device=fabric.device)
        self.step, self.epoch = 0, 0

    def run_epoch(self, on_step: Callable[[dict[str, float]], None] = lambda row: None) -> dict[str, float]:
        """One more epoch; returns its means: the losses, `beta`, `learning_rate`, `labelled` (share of instances with a
        pseudo-label), `agreement` (IoU of coarse and final masks of the weak view, if that was looked at),
        `images_per_second`, `memory_mb`, `seconds`.

        on_step: given after each step the running means, `images_per_second` and `seconds_left`: what is left of all
        epochs at that speed, evaluation apart. Raises `ResamError` naming the tiles where a loss is not
        finite.
        """
        began, options, world = time.perf_counter(), self.options, self.fabric.world_size
        self.samples.start_epoch(self.epoch)
        order = self.samples.order(self.epoch)
        batches = [order[at : at + options.batch] for at in range(0, len(order), options.batch)]
        mine = [number for batch in batches for number in batch[self.fabric.global_rank :: world]]
        views = self._load_ahead(mine)
        sums: dict[str, float] = dict.fromkeys((*MEANS, *COUNTS, "agreement"), 0.0)
        for index, batch in enumerate(batches):
            progress = (self.epoch + index / len(batches)) / max(1, options.epochs)
            weights = loss_weights(options, progress)
            rate = self._learning_rate(progress, options.epochs * len(batches))
            share = batch[self.fabric.global_rank :: world]
            fresh: list[torch.Tensor] = []
            failure: ResamError | None = None
            try:
                for number in share:
                    losses, pseudo = self._tile(next(views), weights, 1 / len(batch), number)
                    fresh.append(losses.remembered)
                    _add(sums, losses, pseudo)
            except ResamError as error:
                failure = error
            self._sum_gradients(failure)
            self._update(rate)
            if options.ssa != "off":
                for part in self._gather(fresh, len(batch)):
                    self.queue = push(self.queue, part, options.queue)
            seen = index * options.batch + len(batch)
            speed = seen / (time.perf_counter() - began)
            left = ((options.epochs - self.epoch) * len(order) - seen) / speed
            row = {**_means(sums), "beta": weights["alignment"], "learning_rate": rate}
            on_step({**row, "images_per_second": speed, "seconds_left": left})
        self.epoch += 1
        if world > 1:
            values = torch.tensor(list(sums.values()), dtype=torch.float64, device=self.fabric.device)
            sums = dict(zip(sums, self.fabric.all_reduce(values, reduce_op="sum").tolist()))  # type: ignore[union-attr]
        seconds = time.perf_counter() - began
        figures = {"images_per_second": len(order) / seconds, "memory_mb": self.memory_mb(), "seconds": seconds}
        return {**_means(sums), "beta": weights["alignment"], "learning_rate": rate, **figures}

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

    def _sum_gradients(self, failure: ResamError | None) -> None:
        """Sum the gradients over the devices. failure: what befell this device's share of the step; it is raised, on
        every device, so that none is left waiting for another."""
        if self.fabric.world_size == 1:
            if failure is not None:
                raise failure
            return
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        failed = gradients[0].new_tensor([failure is not None])
        flat: Any = torch.cat([*(gradient.flatten() for gradient in gradients), failed])
        flat = self.fabric.all_reduce(flat, reduce_op="sum")
        if flat[-1] > 0:
            messages: list[str | None] = [None] * self.fabric.world_size
            torch.distributed.all_gather_object(messages, None if failure is None else str(failure))
            raise ResamError(next(message for message in messages if message))
        for gradient, part in zip(gradients, flat[:-1].split([g.numel() for g in gradients])):
            gradient.copy_(part.view_as(gradient))

    def _update(self, rate: float) -> None:
        """Clip, step, and let the average follow."""
        torch.nn.utils.clip_grad_norm_(self.parameters, self.options.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        self.step += 1
        # the average of few steps should not remember the first one for long
        decay = min(self.options.average, self.step / (self.step + 10))
        with torch.no_grad():
            for kept, parameter in zip(self.average, self.parameters):
                kept.lerp_(parameter, 1 - decay if self.options.average else 1.0)

    def _learning_rate(self, progress: float, steps: int) -> float:
        """Rises over `warmup` steps (of a short run a tenth of its `steps`), and falls as a half cosine to a
        hundredth."""
        rise = min(1.0, (self.step + 1) / max(1, min(self.options.warmup, steps // 10)))
        return self.options.learning_rate * rise * (0.505 + 0.495 * math.cos(math.pi * progress))

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

    def _load_ahead(self, numbers: list[int]) -> Iterator[TileViews]:
        with ThreadPoolExecutor(2) as pool:
            waiting: deque[Future[TileViews]] = deque()
            for number in numbers:
                waiting.append(pool.submit(self.samples.load, number, self.epoch))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _teacher(self) -> contextlib.AbstractContextManager[None]:
        return self.averaged() if self.options.teacher == "average" else contextlib.nullcontext()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the model has the average of its weights: what a run keeps and evaluates."""
        current = [parameter.detach().clone() for parameter in self.parameters]
        try:
            self._put(self.average)
            yield
        finally:
            self._put(current)

    def _put(self, values: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values):
                parameter.copy_(value)

    def adapter_state(self) -> dict[str, torch.Tensor]:
        """The averaged tensors of the adapter, copied."""
        with self.averaged():
            return {name: value.clone() for name, value in adapter_state(self.base.sam).items()}

    def state(self) -> dict[str, Any]:
        """Everything a restart needs, as tensors and plain values. (Samples follow from seed and epoch alone.)"""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "adapter": adapter_state(self.base.sam),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "queue": self.queue,
            "torch_rng": torch.get_rng_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        load_adapter(self.base.sam, state["adapter"])
        with torch.no_grad():
            for kept, value in zip(self.average, state["average"], strict=True):
                kept.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.queue = state["queue"].to(self.fabric.device)
        torch.set_rng_state(state["torch_rng"])
        self.epoch, self.step = int(state["epoch"]), int(state["step"])

    def memory_mb(self) -> float:
        """Peak memory in MiB: of the device where it is a GPU, else of this process."""
        if self.fabric.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.fabric.device) / 2**20
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def check_base(base: Base, options: TrainOptions) -> None:
    """`ResamError` for a base that cannot take the options' parts."""
    try:
        check_parts(base.sam, options)
    except ValueError as error:
        raise ResamError(f"option {error}") from None


def _add(sums: dict[str, float], losses: StepLosses, pseudo: Pseudo) -> None:
    for name, value in (losses.values | {"total": losses.total}).items():
        sums[name] += value
    sums["tiles"] += 1
    sums["instances"] += losses.instances
    sums["labelled"] += losses.labelled
    if pseudo.output is not None:
        sums["looped"] += losses.instances
        sums["agreement"] += float(agreement(pseudo.output).sum())


def _means(sums: dict[str, float]) -> dict[str, float]:
    means = {name: sums[name] / max(1.0, sums["tiles"]) for name in MEANS}
    means["labelled"] = sums["labelled"] / max(1.0, sums["instances"])
    return means | ({"agreement": sums["agreement"] / sums["looped"]} if sums["looped"] else {})
