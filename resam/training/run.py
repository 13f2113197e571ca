"""A training run: a folder with `config.toml`, `metrics.jsonl`, `checkpoints/`, `strips/`, `report.html` and, at the
end, `adapter.safetensors`.

There is no true mask in training from points, hence no honest way to pick a best epoch: the result is the last one, as
the exponential average of its weights. Where a data set has masks for `val` or `test` they are measured and reported,
and decide nothing.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

import resam
from resam.model.bases import Base, load_base
from resam.model.parts import PrompterHead
from resam.model.prompter import prompter_of
from resam.training.aside import Agreement, judge, measure_aside
from resam.training.checkpoints import Adapter, describe_base, own_checkpoint, save_checkpoint, write_adapter
from resam.training.devices import make_fabric, on_main
from resam.training.options import TrainOptions
from resam.training.preparation import choose_framing, teach_consensus, training_set
from resam.training.progress import Reporter, Silent
from resam.training.prompter.teach import TaughtPrompter, teach_prompter
from resam.training.report import draw_strips, write_report
from resam.training.run_data import RunData
from resam.training.run_folder import EventLog, start_folder, write_metrics
from resam.training.sizes import ObjectSizes
from resam.training.trainer import Trainer, check_base
from resam.training.watch import Measurable, Watch
from resam_runtime.common.errors import ResamError
from resam_runtime.tiles.tiling import Framing

WATCHED = 24  # scenes measured after each epoch


@dataclass(frozen=True)
class RunResult:
    """The adapter's path; the evaluations on `RunData.tested` by what was evaluated, "base" first and "adapted" last
    (empty without a tested split); all epochs."""

    adapter: Path
    tested: dict[str, dict[str, Any]]
    history: list[dict[str, Any]]


def run(folder: Path, options: TrainOptions, data: RunData, **settings: Any) -> RunResult:
    """Train and write the run's folder; see `TrainingRun`, whose arguments these are."""
    return TrainingRun(folder, options, data, **settings).train()


class TrainingRun:
    """One run, new or resumed: prepares, trains epoch by epoch, and keeps what each has made.

    Every process of several has one; what the main process alone does goes through `on_main`, so that the others never
    wait in vain.
    """

    def __init__(
        self,
        folder: Path,
        options: TrainOptions,
        data: RunData,
        *,
        fabric: Fabric | None = None,
        base: Base | None = None,
        reporter: Reporter | None = None,
        resume: bool = False,
        tensorboard: bool = False,
        watched: int = WATCHED,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """base: loaded from `options.base` by default; it is changed. resume: go on with a stopped run. watched: scenes
        measured after each epoch, 0 for none. record: makes this a new run, with `config.toml` as `start_folder` writes
        it, once options and data have proved good; so what is refused leaves no folder.

        Raises `ResamError` for bad data and options, a checkpoint made with other options or data, and a file that
        cannot be written.
        """
        self.folder, self.options, self.data = folder, options, data
        self.fabric, self.reporter = fabric or make_fabric(1, "cpu"), reporter or Silent()
        self.base = base or load_base(options.base)
        check_start(self.base, options, tensorboard)
        self.samples = training_set(options, self.base, data, self.reporter)
        self.own_framing = self.samples.framing
        self.history: list[dict[str, Any]] = []
        self.tested: dict[str, dict[str, Any]] = {}
        self.aside: dict[str, Agreement | None] = {}
        self.sizes: ObjectSizes | None = None
        self._digests = data.digests()
        self._logger: EventLog | None = None
        splits = on_main(self.fabric, partial(self._open_folder, tensorboard, watched, record)) or (None, None)
        saved = self._read_checkpoint() if resume else None
        self._resumed = saved is not None
        self._prepare()
        self.trainer = Trainer(self.base, self.samples, options, self.fabric)
        if saved is not None:
            self.trainer.load_state(saved["trainer"])
        self.watch = Watch(self.trainer, *splits, self.reporter, watched)

    def train(self) -> RunResult:
        """All epochs that are left, and the adapter. Raises `ResamError` for a loss that is not finite, and a file that
        cannot be written."""
        self._say_what_begins()
        if not self._resumed:
            on_main(self.fabric, self._begin)
        trainer, epochs = self.trainer, self.options.epochs
        while trainer.epoch < epochs:
            self.reporter.start(f"epoch {trainer.epoch + 1}/{epochs}", -(-len(self.samples) // self.options.batch))
            means = trainer.run_epoch(lambda row: self.reporter.step({**row, "memory_mb": trainer.memory_mb()}))
            on_main(self.fabric, partial(self._keep_epoch, means))
        on_main(self.fabric, self._end)
        if self.history and not any(row["labelled"] for row in self.history):  # its loss is 0, as if all were well
            self.reporter.note(
                "nothing was learned: no instance ever got a pseudo-label; check that each object has a single prompt"
            )
        return RunResult(self._adapter, self.tested, self.history)

    @property
    def _adapter(self) -> Path:
        return self.folder / "adapter.safetensors"

    @property
    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must have in common with the run that goes on from it."""
        identity: dict[str, Any] = {"options": self.options.to_dict(), "base": self.base.sha256}
        return identity | {name: self._digests[name] for name in ("train", "points")}

    @property
    def _measured(self) -> dict[str, str | None]:
        return {name: self._digests[name] for name in ("watched", "tested")}

    def _open_folder(
        self, tensorboard: bool, watched: int, record: Mapping[str, Any] | None
    ) -> tuple[Measurable | None, Measurable | None]:
        """What is watched and what is tested; then the folder, where it is a new run's."""
        data, reporter = self.data, self.reporter
        points = self.options.test_points
        watch = Measurable.of(data.watched if watched else None, points, reporter)
        test = watch if watch and data.tested is data.watched else Measurable.of(data.tested, points, reporter)
        if record is not None:
            data.check_images(reporter)
            start_folder(self.folder, self.options, record)
        if tensorboard:
            self._logger = EventLog(self.folder)
        return watch, test

    def _read_checkpoint(self) -> dict[str, Any] | None:
        """The newest checkpoint, after what it knows of the run is taken over; None where there is none yet."""
        saved = own_checkpoint(self.folder, self._identity, "options, data or base")
        if saved is None:
            return None
        if saved.get("measured", self._measured) != self._measured:
            # else one table would hold figures of two test splits
            raise ResamError(f"{self.folder}: its val or test split has changed since it began; start a new run")
        self.history, self.tested = json.loads(saved["history"]), json.loads(saved["tested"])
        self.samples.frame(Framing(**saved["framing"]))
        self.aside = {name: Agreement(**found) for name, found in json.loads(saved.get("aside", "{}")).items()}
        return saved

    def _prepare(self) -> None:
        """What is made before the first epoch, of the base alone."""
        if not self._resumed and self.options.choose_scale:
            choose_framing(self.base, self.samples, self.fabric, self.reporter)
        if self.options.needs_consensus:
            path, base, samples = self.folder / "consensus.npz", self.base, self.samples
            made = self._resumed
            self.sizes = teach_consensus(path, base, samples, self.options, self.fabric, self.reporter, made)

    def _say_what_begins(self) -> None:
        samples, data = self.samples, self.data
        self.reporter.note(
            f"{self.base.name} base, {len(samples)} tiles of {len(data.train.scenes)} scenes, "
            f"{samples.instances} instances" + (f", resuming after epoch {self.trainer.epoch}" if self._resumed else "")
        )
        if self._digests["tested"] == self._digests["train"]:
            self.reporter.note("the test images are the training images: the figures say nothing about other images")

    def _begin(self) -> None:
        """The base, measured and drawn."""
        self.aside["base"] = self._measure_aside()
        framing = self.samples.framing
        self.tested.update(self.watch.test("base", self.own_framing))
        if framing != self.own_framing:
            self.tested.update(self.watch.test(f"base, scale {framing.scale:.2f}", framing))
        draw_strips(self.folder, self.trainer, 0)

    def _keep_epoch(self, means: dict[str, float]) -> None:
        """Measure and write what an epoch has made."""
        trainer = self.trainer
        row: dict[str, Any] = {"epoch": trainer.epoch, "step": trainer.step, **means, "watched": self.watch.glance()}
        self.history.append(row)
        self.reporter.epoch(row, self.options.epochs)
        draw_strips(self.folder, trainer, trainer.epoch)
        state: dict[str, Any] = {"trainer": trainer.state(), "identity": self._identity, "measured": self._measured}
        state |= {"history": json.dumps(self.history), "tested": json.dumps(self.tested)}
        state["aside"] = json.dumps(self._aside_figures())
        state["framing"] = dataclasses.asdict(self.samples.framing)
        save_checkpoint(self.folder / "checkpoints", trainer.epoch, state)
        self._write_pages()
        if self._logger is not None:
            self._logger.write(row)

    def _end(self) -> None:
        """The adapter, measured and written, unless a finished run was resumed and it is there."""
        state = self.trainer.adapter_state()
        if self._resumed and (written := Adapter.of(self._adapter, state)) is not None:
            # with another time in it the file would be another adapter to all who know it by its digest
            self.reporter.note("nothing left to do: the adapter is unchanged")
            measured_then = written.provenance.get("metrics", {}).get("tested", {})
            self.tested.update({name: found for name, found in measured_then.items() if name == "adapted"})
        else:
            self.tested.update(self.watch.test("adapted", self.samples.framing))
            self.aside["adapted"] = self._measure_aside()
            for told in judge(self.aside.get("base"), self.aside["adapted"]):
                self.reporter.note(told)
            provenance = self._provenance()
            if self.options.prompter:
                taught = self._teach_prompter()
                state |= PrompterHead().state(self.base.sam)
                provenance["prompter"] = taught.to_json()
            write_adapter(self._adapter, state, provenance)
        self._write_pages()

    def _teach_prompter(self) -> TaughtPrompter:
        """The prompter of the averaged weights; it goes into the base."""
        trainer, reporter = self.trainer, self.reporter
        with trainer.averaged():
            taught = teach_prompter(
                self.folder,
                trainer.encoder,
                trainer.loop,
                self.samples,
                self.options,
                self.fabric,
                reporter.start,
                reporter.step,
                begin=copy.deepcopy(prompter_of(self.base.sam)) if self.options.joint else None,
            )
        self.base.sam.add_module("prompter", taught.head)
        for line in taught.lines():
            reporter.note(line)
        return taught

    def _provenance(self) -> dict[str, Any]:
        samples = self.samples
        return {
            "base": describe_base(self.base),
            "data": self._digests | {"instances": samples.instances, "scenes": len(self.data.train.scenes)},
            "options": self.options.to_dict() | dataclasses.asdict(samples.framing),
            "sizes": None if self.sizes is None else self.sizes.to_dict(),
            "precision": str(self.fabric.strategy.precision.precision),
            "metrics": {
                "tested": self.tested,
                "aside": self._aside_figures(),
                "last_epoch": self.history[-1] if self.history else None,
            },
            "resam_version": resam.__version__,
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }

    def _measure_aside(self) -> Agreement | None:
        if self.samples.set_aside:
            self.reporter.start("views of clicks set aside", 1)
        return measure_aside(self.trainer)

    def _aside_figures(self) -> dict[str, dict[str, Any]]:
        return {name: found.to_dict() for name, found in self.aside.items() if found is not None}

    def _write_pages(self) -> None:
        write_metrics(self.folder, self.history)
        write_report(self.folder, self.options, self.data.points(self.options), self.history, self.tested)


def check_start(base: Base, options: TrainOptions, tensorboard: bool = False) -> None:
    """`ResamError` for what can be told before there are data or a folder: options that the base cannot take, and
    TensorBoard events where that is not installed."""
    check_base(base, options)
    if tensorboard:
        EventLog.check()
