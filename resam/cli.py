"""`resam-train`: parsing and printing; the work is `resam.training.run.run`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resam_runtime.common.commands import HELP, version
from resam_runtime.common.errors import ResamError, command_errors
from resam_runtime.common.extras import needs_extra
from resam_runtime.common.option_types import TrainingPrecision

if TYPE_CHECKING:
    from resam.training.options import TrainOptions

RUNS = Path("runs")
EXISTING = click.Path(path_type=Path)


def _knobs(command: Any) -> Any:
    """Options that are for ablations: `--set NAME=VALUE` is their place, and these spellings stay for one version."""
    texts = {
        "requery": ["none", "box", "box+points"],
        "pseudo": ["coarse", "refined", "final", "consensus"],
        "ssa": ["gradient", "paired", "detached", "off"],
        "teacher": ["student", "average"],
    }
    numbers = {
        "rounds": int,
        "tau": float,
        "queue": int,
        "beta": float,
        "average": float,
        "start": int,
        "fit-within": int,
        "negatives": int,
        "asked": int,
        "rank": int,
        "batch": int,
    }
    for name, choices in texts.items():
        command = click.option(f"--{name}", type=click.Choice(choices), hidden=True)(command)
    for name, kind in numbers.items():
        command = click.option(f"--{name}", type=kind, hidden=True)(command)
    for switch in (
        "--calibrate-negatives/--no-calibrate-negatives",
        "--teach-requery/--no-teach-requery",
        "--resample-points/--fixed-points",
    ):
        command = click.option(switch, default=None, hidden=True)(command)
    return click.option("--supervised", is_flag=True, default=None, hidden=True)(command)


@click.command(
    context_settings=HELP,
    epilog="Example: resam-train --data data/nwpu --base sam_vit_b_01ec64.pth --preset nwpu -o runs/nwpu",
)
@click.option(
    "--data",
    type=EXISTING,
    help="Folder with train.json, images/, perhaps val.json and test.json.  [default: synthetic scenes]",
)
@click.option("--annotations", type=EXISTING, help="COCO file instead of --data's train.json.")
@click.option(
    "--images", type=EXISTING, help="Folder that file names are relative to.  [default: images/ beside the JSON file]"
)
@click.option("--test", "test_file", type=EXISTING, help="COCO file instead of --data's test.json.")
@click.option("-o", "--output", type=EXISTING, help="Run folder.  [default: runs/NAME-N]")
@click.option("--resume", type=EXISTING, help="Run folder to resume as it was started.")
@click.option(
    "--preset",
    default="tiny",
    show_default=True,
    help="tiny, paper, nwpu, whu, hrsid (or nwpu-v1, ...), or a TOML file.",
)
@click.option("--base", help="tiny, or a SAM checkpoint file.")
@click.option("--points", type=int, help="Points drawn per instance, 1 or more.")
@click.option("--points-file", type=EXISTING, help="Points file to train on, with --images.")
@click.option("--keypoints", is_flag=True, help="Train on the COCO `keypoints` of the annotations (those with v > 0).")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    metavar="NAME=SIZE",
    help="Size of a class's objects: ship=30x6m or tank=12m (px without a georeference); repeatable.  "
    "[default: from boxes in the points file]",
)
@click.option(
    "--prompter/--no-prompter",
    default=None,
    help="Also train a prompter, so that the engine finds instances by class without points.",
)
@click.option(
    "--partial",
    "clicked",
    type=float,
    is_flag=False,
    flag_value=0.5,
    help="With --prompter: about this share of the instances is clicked.  [0.5 without a value]",
)
@click.option("--epochs", type=int, help="Passes over the tiles.")
@click.option("--learning-rate", type=float, help="Peak learning rate.")
@click.option("--choose-scale/--no-choose-scale", default=None, help="Choose the scale of tiles from the points.")
@click.option("--scale", type=float, help="Tile pixels per pixel of a large scene.")
@click.option("--seed", type=int, help="Seed of weights, tile order and views.")
@click.option(
    "--set",
    "more",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other option of a preset: batch=4, requery=box, ...; repeatable.",
)
@click.option("--scenes", type=int, help="Synthetic training scenes.  [default: 24]")
@click.option("--devices", type=click.IntRange(1), default=1, show_default=True, help="GPUs or CPU processes.")
@click.option("--accelerator", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--precision",
    type=TrainingPrecision(),
    default="auto",
    show_default=True,
    help="auto: bf16 where the hardware supports it (on a CPU from ViT-B up), else fp32.",
)
@click.option(
    "--watch",
    type=click.IntRange(0),
    default=24,
    show_default=True,
    help="Scenes of val (else test) measured after each epoch.",
)
@click.option("--tensorboard", is_flag=True, help="Also write TensorBoard events.")
@_knobs
@version
@command_errors
def train(
    data: Path | None,
    annotations: Path | None,
    images: Path | None,
    test_file: Path | None,
    output: Path | None,
    resume: Path | None,
    preset: str,
    points_file: Path | None,
    keypoints: bool,
    scenes: int | None,
    devices: int,
    accelerator: str,
    precision: str,
    watch: int,
    tensorboard: bool,
    sizes: tuple[str, ...],
    more: tuple[str, ...],
    **changes: Any,
) -> None:
    """Adapt a SAM to remote-sensing images from points alone.

    Without arguments: the tiny base, synthetic scenes, one point per instance; minutes on two CPU cores. Writes
    adapter.safetensors, report.html, metrics.jsonl and checkpoints into a run folder.
    """
    for name in ("scale", "fit_within"):
        if changes[name] is not None:
            if changes["choose_scale"]:
                raise ResamError(f"--{name.replace('_', '-')} and --choose-scale exclude each other; leave one out")
            changes["choose_scale"] = False
    with needs_extra("resam-train", "train"):
        from resam.model.bases import load_base
        from resam.training.devices import launch, make_fabric, on_main
        from resam.training.options import parse_changes, read_options
        from resam.training.progress import Live, print_result
        from resam.training.run import check_start, run
        from resam.training.run_folder import check_free
        from resam.training.sources import Sources

    if resume is not None:
        check_resume(resume, _FREE_ON_RESUME)
        config = resume / "config.toml"
        options, sources, folder = read_options(config), Sources.read(config), resume
    else:
        options = read_options(preset, **all_changes(changes | {"sizes": ",".join(sizes) or None}, parse_changes(more)))
        sources = Sources.choose(data, annotations, images, test_file, points_file, keypoints, scenes)
        folder = output or _free_folder(sources.name)
        check_free(folder)
    base = load_base(changes["base"] or options.base)
    check_start(base, options, tensorboard)  # here too: synthetic scenes are drawn before the run begins
    fabric = make_fabric(devices, accelerator, precision, base.architecture.width)
    launch(fabric)
    folder = Path(fabric.broadcast(str(folder)))
    with said_once(fabric), Live() if fabric.is_global_zero else quiet() as reporter:
        for idle in _idle(changes, options, points_file, keypoints) if resume is None else ():
            reporter.note(idle)
        if precision == "auto" and fabric.device.type == "cpu" and fabric.strategy.precision.precision != "32-true":
            reporter.note("training in bf16, which this CPU supports: about half the time of --precision fp32")
        on_main(fabric, lambda: sources.prepare(folder, reporter))
        result = run(
            folder,
            options,
            sources.open(folder),
            fabric=fabric,
            base=base,
            reporter=reporter,
            resume=resume is not None,
            tensorboard=tensorboard,
            watched=watch,
            record=sources.to_dict() if resume is None else None,
        )
    if fabric.is_global_zero:
        if result.tested:
            print_result(result.tested)
        click.echo(f"adapter  {result.adapter}\nreport   {folder / 'report.html'}")


def all_changes(said: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The options' values by name, those of --set among them. `ResamError` where one is said twice."""
    for name in more:
        if said.get(name) is not None:
            raise ResamError(f"--set {name}: the option is given twice; leave one out")
    return {**said, **more}


# What may differ when a run goes on: where and how it is computed and shown, not what.
_FREE_ON_RESUME = ("resume", "base", "devices", "accelerator", "precision", "tensorboard", "watch")


def check_resume(folder: Path, free: Collection[str]) -> None:
    """`ResamError` where there is no run, or options were given that it has already. free: names of those that it has
    not."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if parameter.name not in free and source is click.core.ParameterSource.COMMANDLINE:
            raise ResamError(f"--resume uses the run's own options; leave out {parameter.opts[-1]}")
    if not (folder / "config.toml").is_file():
        raise ResamError(f"{folder}: not a run folder (no config.toml)")


def _idle(
    changes: Mapping[str, Any], options: TrainOptions, points_file: Path | None, keypoints: bool
) -> Iterator[str]:
    """What to say of options that do nothing beside the others."""

    def given(*names: str) -> str:
        return ", ".join(f"--{name.replace('_', '-')}" for name in names if changes[name] not in (None, False))

    drawn = given("points", "negatives", "resample_points")
    if drawn and (points_file is not None or keypoints):
        source = points_file or "the annotations"
        yield f"{drawn}: training uses the points in {source} as they are; drawn points are for evaluation only"
    if options.ssa == "off" and (names := given("queue", "beta")):
        yield f"{names}: no effect without soft semantic alignment (--ssa)"
    if options.supervised and (names := given("pseudo", "calibrate_negatives")):
        yield f"{names}: no effect where true masks are taught (--supervised)"
    if options.says_sizes and not options.needs_consensus:
        yield "--size: no effect where the base's consensus is not taught (--set pseudo=consensus)"
    if options.needs_consensus and options.ssa == "off" and (names := given("teacher")):
        yield f"{names}: no effect where the base's consensus is taught (--pseudo) without --ssa"
    if changes["clicked"] is not None and not options.prompter:
        yield "--partial: no effect without a prompter (--prompter)"


def _free_folder(name: str) -> Path:
    number = 1
    while (RUNS / f"{name}-{number}").exists():
        number += 1
    return RUNS / f"{name}-{number}"


@contextlib.contextmanager
def said_once(fabric: Any) -> Iterator[None]:
    """Of several processes that end with the same error the first alone says it."""
    try:
        yield
    except ResamError:
        if fabric.is_global_zero:
            raise
        sys.exit(2)


def quiet() -> Any:
    from resam.training.progress import Silent

    return contextlib.nullcontext(Silent())


if __name__ == "__main__":
    train()
