"""A training run: a folder with `config.toml`, `metrics.jsonl`, `checkpoints/`, `strips/`, `report.html` and, at the
end, `adapter.safetensors`.

There is no true mask in training from points, hence no honest way to pick a best epoch: the result is the last one, as
the exponential average of its weights. Where a data set has masks for `val` or `test` they are measured and reported,
and decide nothing.
"""

from __future__ import annotations

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
from resam.data.prompts import PointOptions
from resam.data.training_set import TrainingSet
from resam.model.bases import Base, load_base
from resam.training.checkpoints import Adapter, describe_base, latest_checkpoint, save_checkpoint, write_adapter
from resam.training.consensus import consensus_masks, load_masks, save_masks
from resam.training.devices import make_fabric, on_main
from resam.training.framing import SCALES, best_framing, compare_framings
from resam.training.options import TrainOptions, write_options
from resam.training.outputs import writing
from resam.training.progress import Reporter, Silent
from resam.training.report import draw_strips, write_report
from resam.training.run_data import RunData
from resam.training.sources import SYNTHETIC
from resam.training.trainer import Trainer, check_base
from resam.training.watch import Measurable, Watch
from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import atomic_write
from resam_runtime.tiles.tiling import Framing

WATCHED = 24  # scenes measured after each epoch


@dataclass(frozen=True)
class RunResult:
    """The adapter's path; the evaluations on `RunData.tested` by what was evaluated, "base" first and "adapted" last
    (empty without a tested split); all epochs."""

    adapter: Path
    tested: dict[str, dict[str, Any]]
    history: list[dict[str, Any]]


def run(
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
) -> RunResult:
    """Train, or go on with a stopped run (`resume`), and write the run's folder.

    base: loaded from `options.base` by default; it is changed. watched: scenes measured after each epoch, 0 for none.
    record: makes this a new run, with `config.toml` as `start_folder` writes it, once options and data have proved
    good; so what is refused leaves no folder. Raises `ResamError` for bad data and options, a loss that is not finite,
    a checkpoint made with other options or data, and a file that cannot be written.
    """
    fabric, reporter = fabric or make_fabric(1, "cpu"), reporter or Silent()
    base = base or load_base(options.base)
    check_start(base, options, tensorboard)
    samples = _training_set(options, base, data, reporter)
    default = samples.framing
    digests = data.digests()
    identity: dict[str, Any] = {"options": options.to_dict(), "base": base.sha256}
    identity |= {name: digests[name] for name in ("train", "points")}

    def prepare() -> tuple[Any, Measurable | None, Measurable | None]:
        """The TensorBoard writer, what is watched, and what is tested; then the folder, where it is a new run's."""
        points = PointOptions(options.points, options.negatives)
        watch = Measurable.of(data.watched if watched else None, points, reporter)
        test = watch if watch and data.tested is data.watched else Measurable.of(data.tested, points, reporter)
        if record is not None:
            data.check_images(reporter)
            start_folder(folder, options, record)
        return _tensorboard()(str(folder / "tensorboard")) if tensorboard else None, watch, test

    prepared = on_main(fabric, prepare)
    history: list[dict[str, Any]] = []
    tested: dict[str, dict[str, Any]] = {}
    saved = latest_checkpoint(folder / "checkpoints") if resume else None
    measured = {name: digests[name] for name in ("watched", "tested")}
    if saved is not None:
        if saved["identity"] != identity:
            raise ResamError(f"{folder}: its checkpoint was made with other options, data or base; start a new run")
        if saved.get("measured", measured) != measured:  # else one table would hold figures of two test splits
            raise ResamError(f"{folder}: its val or test split is another than when it began; start a new run")
        history, tested = json.loads(saved["history"]), json.loads(saved["tested"])
        samples.frame(Framing(**saved["framing"]))
    elif options.choose_scale:
        _choose_framing(base, samples, fabric, reporter)
    if options.needs_consensus:
        _teach_consensus(folder / "consensus.npz", base, samples, options, fabric, reporter, made=saved is not None)
    trainer = Trainer(base, samples, options, fabric)
    if saved is not None:
        trainer.load_state(saved["trainer"])
    reporter.note(
        f"{base.name} base, {len(samples)} tiles of {len(data.train.scenes)} scenes, {samples.instances} instances"
        + (f", going on after epoch {trainer.epoch}" if saved is not None else "")
    )
    if digests["tested"] == digests["train"]:
        reporter.note("what is tested is what is trained on: the figures tell nothing of other images")
    logger, few, whole = prepared or (None, None, None)
    watch = Watch(trainer, few, whole, reporter, watched)
    adapter = folder / "adapter.safetensors"

    # What the main process does while the others wait for it: through `on_main`, so that they never wait in vain.
    def begin() -> None:
        tested.update(watch.test("base", default))
        if samples.framing != default:
            tested.update(watch.test(f"base, scale {samples.framing.scale:.2f}", samples.framing))
        draw_strips(folder, trainer, 0)

    def keep(means: dict[str, float]) -> None:
        row: dict[str, Any] = {"epoch": trainer.epoch, "step": trainer.step, **means, "watched": watch.glance()}
        history.append(row)
        reporter.epoch(row, options.epochs)
        draw_strips(folder, trainer, trainer.epoch)
        state: dict[str, Any] = {"trainer": trainer.state(), "identity": identity}
        state |= {"history": json.dumps(history), "tested": json.dumps(tested), "measured": measured}
        state["framing"] = dataclasses.asdict(samples.framing)
        save_checkpoint(folder / "checkpoints", trainer.epoch, state)
        _write_lines(folder / "metrics.jsonl", history)
        write_report(folder, options, data.points(options), history, tested)
        if logger is not None:
            with writing(folder / "tensorboard"):
                _log(logger, row)

    def end() -> None:
        state = trainer.adapter_state()
        if saved is not None and (written := Adapter.of(adapter, state)) is not None:
            # with another time in it the file would be another adapter to all who know it by its digest
            reporter.note("nothing is left to do: the adapter stays as it is")
            measured_then = written.provenance.get("metrics", {}).get("tested", {})
            tested.update({name: found for name, found in measured_then.items() if name == "adapted"})
        else:
            tested.update(watch.test("adapted", samples.framing))
            provenance = {
                "base": describe_base(base),
                "data": digests | {"instances": samples.instances, "scenes": len(data.train.scenes)},
                "options": options.to_dict() | dataclasses.asdict(samples.framing),
                "precision": str(fabric.strategy.precision.precision),
                "metrics": {"tested": tested, "last_epoch": history[-1] if history else None},
                "resam_version": resam.__version__,
                "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            }
            write_adapter(adapter, state, provenance)
        _write_lines(folder / "metrics.jsonl", history)
        write_report(folder, options, data.points(options), history, tested)

    if saved is None:
        on_main(fabric, begin)
    while trainer.epoch < options.epochs:
        reporter.start(f"epoch {trainer.epoch + 1}/{options.epochs}", -(-len(samples) // options.batch))
        means = trainer.run_epoch(lambda row: reporter.step({**row, "memory_mb": trainer.memory_mb()}))
        on_main(fabric, partial(keep, means))
    on_main(fabric, end)
    if history and not any(row["labelled"] for row in history):  # its loss is 0, as if all were well
        reporter.note("nothing was learned: no instance ever got a pseudo-label; has each object one prompt?")
    return RunResult(adapter, tested, history)


def check_start(base: Base, options: TrainOptions, tensorboard: bool = False) -> None:
    """`ResamError` for what can be told before there are data or a folder: options that the base cannot take, and
    TensorBoard events where that is not installed."""
    check_base(base, options)
    if tensorboard:
        _tensorboard()


def framed_training_set(options: TrainOptions, base: Base, data: RunData, fabric: Fabric) -> TrainingSet:
    """What a new run with these options walks through, at the scale that it chooses where the options say so.

    base: without LoRA. Raises `ResamError` as `TrainingSet` does.
    """
    samples = _training_set(options, base, data, Silent())
    if options.choose_scale:
        _choose_framing(base, samples, fabric, Silent())
    if options.needs_consensus:
        samples.teach(consensus_masks(base, samples, options, fabric))
    return samples


def _teach_consensus(
    path: Path, base: Base, samples: TrainingSet, options: TrainOptions, fabric: Fabric, reporter: Reporter, made: bool
) -> None:
    """Make the consensus and keep it at `path`, or take what a stopped run kept there (`made`)."""
    if made:
        samples.teach(load_masks(path, base.architecture.mask_size))
        return
    reporter.start("pseudo-masks", -(-len(samples) // fabric.world_size))
    masks = consensus_masks(base, samples, options, fabric, reporter.step)

    def keep() -> None:
        with writing(path):
            save_masks(path, masks)

    on_main(fabric, keep)
    samples.teach(masks)


def _choose_framing(base: Base, samples: TrainingSet, fabric: Fabric, reporter: Reporter) -> None:
    """Frame `samples` as the base's masks agree best, the same in every process."""
    reporter.start("choosing the scale", len(SCALES) + 1)
    scenes, prompts = samples.data.scenes, samples.prompts
    with fabric.autocast():
        found = compare_framings(base, scenes, prompts, samples.framing, fabric.device, reporter.step)
    chosen: Framing = fabric.broadcast(best_framing(found))
    figures = ", ".join(f"{one.framing.scale:.2f}: {one.mean:.3f}" for one in found)
    reporter.note(f"scale {chosen.scale:.2f}, by the agreement of the base's masks between scales ({figures})")
    samples.frame(chosen)


def _training_set(options: TrainOptions, base: Base, data: RunData, reporter: Reporter) -> TrainingSet:
    return TrainingSet(
        data.train,
        options.point_options(data.points_file, data.keypoints),
        base.architecture,
        Framing(options.fit_within or base.fit_within, options.scale),
        seed=options.seed,
        supervised=options.supervised,
        strength=options.strength,
        note=reporter.note,
    )


def check_free(folder: Path) -> None:
    """`ResamError` where a folder holds a run or something else, or is no folder. Synthetic scenes that a stopped
    command has drawn there will do."""
    if folder.exists() and not folder.is_dir():
        raise ResamError(f"{folder}: is a file; choose another --output")
    if (folder / "config.toml").exists():
        raise ResamError(f"{folder}: holds a run already; continue it (--resume) or choose another --output")
    if folder.is_dir() and (foreign := sorted({path.name for path in folder.iterdir()} - {SYNTHETIC})):
        raise ResamError(f"{folder}: is no run and not empty (it holds {foreign[0]}); choose another --output")


def start_folder(folder: Path, options: TrainOptions, data: Mapping[str, Any]) -> None:
    """Make a run's folder and write its `config.toml`. data: the paths that `resume` needs, by name."""
    check_free(folder)
    try:
        write_options(folder / "config.toml", options, data)
    except OSError as error:
        raise ResamError(f"{folder}: cannot write there ({error.strerror}); choose another --output") from None


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    with writing(path), atomic_write(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _tensorboard() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ResamError("--tensorboard: tensorboard is not installed; pip install tensorboard") from None
    return SummaryWriter


def _log(logger: Any, row: dict[str, Any]) -> None:
    for name, value in row.items():
        if isinstance(value, float):
            logger.add_scalar(name, value, row["epoch"])
    for stage, values in (row["watched"] or {}).items():
        if isinstance(values, dict) and values["miou"] is not None:
            logger.add_scalar(f"miou/{stage}", values["miou"], row["epoch"])
    logger.flush()
