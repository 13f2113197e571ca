"""What a trainer does whatever it teaches: epochs of steps, gradients summed over devices, the optimiser, the weights'
average, and everything needed to go on later.

One step takes `batch` samples. On several devices each takes its share of them and the gradients are summed: the result
is that of one device.
"""

from __future__ import annotations

import abc
import contextlib
import math
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

import torch
from lightning_fabric import Fabric

from resam.model.parts import Trained
from resam_runtime.common.errors import ResamError

AHEAD = 4  # samples loaded while a step runs
View = TypeVar("View")
Figures = dict[str, float]


class Schedule(Protocol):
    """The options that say how a trainer walks, as in `resam.training.options.TrainOptions`."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def warmup(self) -> int: ...
    @property
    def clip(self) -> float: ...
    @property
    def average(self) -> float: ...


class EpochTrainer(abc.ABC, Generic[View]):
    """Trains the parameters of `trained`; all else is the subclass's, which says what a sample is and what it teaches.

    `step`: optimiser steps so far. `epoch`: epochs so far. summed: names of all that `learn` may give.
    """

    summed: tuple[str, ...]

    def __init__(self, fabric: Fabric, schedule: Schedule, trained: Sequence[Trained]) -> None:
        self.fabric, self._schedule = fabric, schedule
        self.parameters = [parameter for group in trained for parameter in group.parameters]
        groups = [{"params": list(group.parameters), "factor": group.rate} for group in trained]
        self.optimizer = torch.optim.AdamW(groups, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.step, self.epoch = 0, 0

    @abc.abstractmethod
    def order(self) -> list[int]:
        """The numbers of this epoch's samples, in their order."""

    @abc.abstractmethod
    def load(self, number: int) -> View:
        """A sample as this epoch sees it; called in other threads. `ResamError` where it cannot be read."""

    @abc.abstractmethod
    def learn(self, view: View, progress: float, scale: float, number: int) -> Mapping[str, float]:
        """Walk a sample's loss back into all parameters (gradients are added, times `scale`); what adds to the sums.

        progress: 0..1 of training. Raises `ResamError` naming the sample where the loss is not finite.
        """

    @abc.abstractmethod
    def means(self, sums: Mapping[str, float]) -> Figures:
        """What the sums of several samples mean; `total` is their loss."""

    def after_step(self, count: int) -> None:
        """A step on `count` samples, over all devices, is done."""

    def run_epoch(self, on_step: Callable[[Figures], None] = lambda row: None) -> Figures:
        """One more epoch; returns its means, `learning_rate`, `images_per_second`, `memory_mb`, `seconds`.

        on_step: given after each step the running means, `images_per_second` and `seconds_left`: what is left of all
        epochs at that speed, evaluation apart. Raises `ResamError` naming the samples where a loss is not finite.
        """
        began, options, world = time.perf_counter(), self._schedule, self.fabric.world_size
        order = self.order()
        batches = [order[at : at + options.batch] for at in range(0, len(order), options.batch)]
        mine = [number for batch in batches for number in batch[self.fabric.global_rank :: world]]
        views = self._load_ahead(mine)
        sums: Figures = dict.fromkeys(self.summed, 0.0)
        for index, batch in enumerate(batches):
            progress = (self.epoch + index / len(batches)) / max(1, options.epochs)
            rate = self._learning_rate(progress, options.epochs * len(batches))
            failure: ResamError | None = None
            try:
                for number in batch[self.fabric.global_rank :: world]:
                    for name, value in self.learn(next(views), progress, 1 / len(batch), number).items():
                        sums[name] += value
            except ResamError as error:
                failure = error
            self._sum_gradients(failure)
            self._update(rate)
            self.after_step(len(batch))
            seen = index * options.batch + len(batch)
            speed = seen / (time.perf_counter() - began)
            left = ((options.epochs - self.epoch) * len(order) - seen) / speed
            row = {**self.means(sums), "learning_rate": rate}
            on_step({**row, "images_per_second": speed, "seconds_left": left})
        self.epoch += 1
        if world > 1:
            values = torch.tensor(list(sums.values()), dtype=torch.float64, device=self.fabric.device)
            sums = dict(zip(sums, self.fabric.all_reduce(values, reduce_op="sum").tolist()))  # type: ignore[union-attr]
        seconds = time.perf_counter() - began
        figures = {"images_per_second": len(order) / seconds, "memory_mb": self.memory_mb(), "seconds": seconds}
        return {**self.means(sums), "learning_rate": rate, **figures}

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
        torch.nn.utils.clip_grad_norm_(self.parameters, self._schedule.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        self.step += 1
        # the average of few steps should not remember the first one for long
        decay = min(self._schedule.average, self.step / (self.step + 10))
        with torch.no_grad():
            for kept, parameter in zip(self.average, self.parameters):
                kept.lerp_(parameter, 1 - decay if self._schedule.average else 1.0)

    def _learning_rate(self, progress: float, steps: int) -> float:
        """Rises over `warmup` steps (of a short run a tenth of its `steps`), and falls as a half cosine to a
        hundredth."""
        rise = min(1.0, (self.step + 1) / max(1, min(self._schedule.warmup, steps // 10)))
        return self._schedule.learning_rate * rise * (0.505 + 0.495 * math.cos(math.pi * progress))

    def _load_ahead(self, numbers: list[int]) -> Iterator[View]:
        with ThreadPoolExecutor(2) as pool:
            waiting: deque[Future[View]] = deque()
            for number in numbers:
                waiting.append(pool.submit(self.load, number))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

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

    def state(self) -> dict[str, Any]:
        """What a restart needs, as tensors and plain values; the subclass adds the weights. (Samples follow from seed
        and epoch alone.)"""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        with torch.no_grad():
            for kept, value in zip(self.average, state["average"], strict=True):
                kept.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])
        self.epoch, self.step = int(state["epoch"]), int(state["step"])

    def memory_mb(self) -> float:
        """Peak memory in MiB: of the device where it is a GPU, else of this process."""
        if self.fabric.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.fabric.device) / 2**20
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
