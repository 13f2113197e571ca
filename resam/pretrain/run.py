"""A run of pretraining: steps, validation, and files that let it go on where it stopped.

Beside the weights OUT.safetensors, always those of the best validation so far: OUT.pt, all that a run needs to go on,
and OUT.jsonl, a line of figures per validation.
"""

from __future__ import annotations

import copy
import io
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from safetensors.torch import save
from segment_anything.modeling import Sam
from torch.utils.data import DataLoader

from resam.pretrain.batches import Batch, Batches
from resam.pretrain.photographs import LabelledTile
from resam.pretrain.placed import PlacedSam
from resam.pretrain.schedule import learning_rate, make_optimizers
from resam.pretrain.step import step_loss
from resam.pretrain.validation import validate
from resam.training.outputs import write_bytes
from resam_runtime.common.errors import ResamError

NO_ROOM = "make room there"
SAVED_EVERY = 200  # steps
AVERAGING = 0.998  # of the weights' moving average, each step


@dataclass(frozen=True)
class Plan:
    """steps: of the whole run; falling: those at its end with a falling learning rate; every: steps between two
    validations."""

    steps: int
    falling: int
    learning_rate: float
    every: int
    bf16: bool
    workers: int


class Pretraining:
    """The state of a run: weights, their moving average, optimizers, the number of steps done, the best so far."""

    def __init__(self, sam: Sam, plan: Plan, device: torch.device) -> None:
        self.sam, self.plan, self.device = sam.to(device), plan, device
        self.placed = PlacedSam(self.sam)
        self.placed.encoder.to(device)
        self.average = copy.deepcopy(self.sam)
        self.optimizers = make_optimizers(self.sam, plan.learning_rate, plan.bf16)
        self.step, self.best, self.seconds = 0, -math.inf, 0.0
        self.stretches: list[dict[str, Any]] = []  # first step and command of each, where a run was told another end

    def resume(self, path: Path) -> None:
        """Take the state that `save_state` wrote. Raises `ResamError` for a file that holds none of this model."""
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.sam.load_state_dict(state["sam"])
            self.average.load_state_dict(state["average"])
            for optimizer, own in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(own)
            self.step, self.best, self.seconds = int(state["step"]), float(state["best"]), float(state["seconds"])
            self.stretches = list(state["stretches"])
        except FileNotFoundError:
            raise ResamError(f"{path}: no such file; --resume continues a run with the same --output") from None
        except Exception as error:  # the unpickler answers damage with whatever it trips over
            raise ResamError(f"{path}: not the state of such a run ({type(error).__name__})") from None

    def save_state(self, path: Path) -> None:
        state = {
            "sam": self.sam.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "stretches": self.stretches,
        }
        data = io.BytesIO()
        torch.save(state, data)
        write_bytes(path, data.getbuffer(), NO_ROOM)

    def train(
        self,
        batches: Batches,
        held_out: Mapping[str, Sequence[LabelledTile]],
        seed: int,
        output: Path,
        record: dict[str, Any],
        progress: Progress,
    ) -> None:
        """Go on to the planned end, writing the files as the module says. record: of how the weights are made, with
        the member `command`."""
        plan, log = self.plan, output.with_suffix(".jsonl")
        self.stretches.append({"first": self.step, "command": record["command"]})
        loader = DataLoader(
            batches,  # a data set of whole batches
            batch_size=None,
            sampler=range(self.step, plan.steps),
            num_workers=plan.workers,
        )
        task = progress.add_task("steps", total=plan.steps, completed=self.step, loss=math.nan)
        began, recent = time.monotonic() - self.seconds, []
        for batch in loader:
            rate = learning_rate(self.step, plan.steps, plan.falling, plan.learning_rate)
            recent.append(self._learn(batch, rate, np.random.default_rng((seed, self.step, 1))))
            self.step += 1
            progress.update(task, advance=1, loss=float(np.mean(recent[-50:])))
            self.seconds = time.monotonic() - began
            if self.step % plan.every and self.step != plan.steps:
                if self.step % SAVED_EVERY == 0:
                    self.save_state(output.with_suffix(".pt"))
                continue
            figures = validate(self.average, held_out)
            row = {"step": self.step, "loss": float(np.mean(recent)), "rate": rate, "seconds": round(self.seconds)}
            recent = []
            score = (figures["mean"]["point"] + figures["mean"]["box"]) / 2
            if score > self.best:
                self.best = score
                made = {"step": self.step, "minutes": round(self.seconds / 60, 1), "stretches": self.stretches}
                write_weights(output, self.average, record | made | {"held_out": figures})
            self.save_state(output.with_suffix(".pt"))
            with log.open("a") as out:
                out.write(json.dumps(row | figures) + "\n")
            progress.console.print(row | figures["mean"], highlight=False)

    def _learn(self, batch: Batch, rate: float, rng: np.random.Generator) -> float:
        """One step; returns its loss."""
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        batch = Batch(**{name: value.to(self.device) for name, value in vars(batch).items()})
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.bf16):
            loss = step_loss(self.placed, batch, rng)
        self.sam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.sam.parameters(), 1.0)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ResamError(f"pretraining diverged at step {self.step} (loss {value}); try a lower learning rate")
        for optimizer in self.optimizers:
            optimizer.step()
        decay = min(AVERAGING, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for kept, own in zip(self.average.parameters(), self.sam.parameters(), strict=True):
                kept.lerp_(own, 1 - decay)
        return value


def write_weights(path: Path, sam: Sam, record: Mapping[str, Any]) -> None:
    """The weights as safetensors, with the record of how they were made in the member `resam` of its header."""
    state = {name: value.contiguous().cpu() for name, value in sam.state_dict().items()}
    write_bytes(path, save(state, metadata={"resam": json.dumps(record)}), NO_ROOM)
