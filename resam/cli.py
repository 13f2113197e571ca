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
    return command


@click.command(
    context_settings=HELP,
    epilog="Example: resam-train --data data/nwpu --base sam_vit_b_01ec64.pth --preset nwpu -o runs/nwpu",
)
@click.option("--data", type=EXISTING, help="Folder with train.json, images/ and perhaps val.json and test.json. "
              "Without it: synthetic scenes, made in the run's folder.")  # fmt: skip
@click.option("--annotations", type=EXISTING, help="COCO file to train on, instead of --data's train.json; "
              "of --data it keeps val.json, test.json and images/.")  # fmt: skip
@click.option(
    "--images",
    type=EXISTING,
    help="Folder that file names are relative to [default: images/ beside the JSON file].",
)
@click.option("--test", "test_file", type=EXISTING, help="COCO file to test on, instead of --data's test.json.")
@click.option("-o", "--output", type=EXISTING, help="Run folder to make [default: runs/NAME-N].")
@click.option("--resume", type=EXISTING, help="Run folder to resume; takes its own options and data.")
@click.option(
    "--preset",
    default="tiny",
    show_default=True,
    help="tiny, paper, nwpu, whu, hrsid (and nwpu-v1, ...), or a TOML file (a run's config.toml).",
)
@click.option("--base", help="tiny, or a SAM checkpoint file (its type is recognised); with --resume: "
              "where it lies now.")  # fmt: skip
@click.option("--points", type=int, help="Positive points drawn per instance, 1 or more (the paper: 1, 2 or 3).")
@click.option(
    "--negatives",
    type=int,
    help="Negative points per instance, drawn outside the true mask; -1: as many as --points (the paper).",
)
@click.option(
    "--points-file",
    type=EXISTING,
    help="Take the training points from this file (JSON, CSV, GeoJSON, COCO); with --images "
    "it is all the data there need be.",
)
@click.option("--keypoints", is_flag=True, help="Take the training points from the annotations' COCO `keypoints` "
              "(x, y, v; those with v > 0).")  # fmt: skip
@click.option("--asked", type=int, help="How many of an instance's positive points the model is asked with at a time, "
              "while its labels come from all of them; 0: all.")  # fmt: skip
@click.option("--size", "sizes", multiple=True, metavar="NAME=SIZE", help="How large the objects of a class are: "
              "ship=30x6m, or tank=12m (px without a georeference); may be repeated. Without it boxes in the points "
              "file are examples of their class's size.")  # fmt: skip
@click.option("--supervised", is_flag=True, default=None, help="Train on the true masks: the upper bound.")
@click.option("--rank", type=int, help="Rank of LoRA.")
@click.option("--prompter/--no-prompter", default=None, help="Teach a prompter too: the engine then finds instances "
              "without points, by class.")  # fmt: skip
@click.option("--partial", "clicked", type=float, is_flag=False, flag_value=0.5, help="Not every instance of the "
              "training images is clicked, about this share [bare: 0.5]; for the prompter.")  # fmt: skip
@click.option("--epochs", type=int, help="Times each tile is seen.")
@click.option("--batch", type=int, help="Tiles per step, over all devices.")
@click.option("--learning-rate", type=float, help="Peak learning rate.")
@click.option("--choose-scale/--no-choose-scale", default=None, help="Choose the scale of the tiles by the agreement "
              "of the base's masks between scales.")  # fmt: skip
@click.option("--scale", type=float, help="Tile pixels for each pixel of a scene larger than a tile; nothing is "
              "chosen then.")  # fmt: skip
@click.option("--seed", type=int, help="Of LoRA's first weights, the order of tiles, and the views.")
@click.option("--set", "more", multiple=True, metavar="NAME=VALUE", help="Any other option of a preset, such as "
              "requery=box or decoder_rank=8; may be repeated.")  # fmt: skip
@click.option("--scenes", type=int, help="Synthetic training scenes, without data of your own [default: 24].")
@click.option(
    "--devices",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Devices (or CPU processes) that share each batch.",
)
@click.option("--accelerator", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--precision",
    type=click.Choice(["auto", "32", "bf16"]),
    default="auto",
    show_default=True,
    help="auto: bf16 on CUDA, and for ViT-B and larger on a CPU with instructions for it; else 32.",
)
@click.option(
    "--watch",
    type=click.IntRange(0),
    default=24,
    show_default=True,
    help="Scenes of the val split (else test) measured after each epoch.",
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
            reporter.note("in bf16, for which this CPU has instructions: half the time of --precision 32")
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
            raise ResamError(f"--resume takes the run's own options; leave out {parameter.opts[-1]}")
    if not (folder / "config.toml").is_file():
        raise ResamError(f"{folder}: holds no run (no config.toml)")


def _idle(
    changes: Mapping[str, Any], options: TrainOptions, points_file: Path | None, keypoints: bool
) -> Iterator[str]:
    """What to say of options that do nothing beside the others."""

    def given(*names: str) -> str:
        return ", ".join(f"--{name.replace('_', '-')}" for name in names if changes[name] not in (None, False))

    drawn = given("points", "negatives", "resample_points")
    if drawn and (points_file is not None or keypoints):
        source = points_file or "the annotations"
        yield f"{drawn}: training takes the points of {source} as they are; drawn ones are for measuring alone"
    if options.ssa == "off" and (names := given("queue", "beta")):
        yield f"{names}: nothing to do without soft semantic alignment (--ssa)"
    if options.supervised and (names := given("pseudo", "calibrate_negatives")):
        yield f"{names}: nothing to do where true masks are taught (--supervised)"
    if options.says_sizes and not options.needs_consensus:
        yield "--size: nothing to do where the base's consensus is not taught (--set pseudo=consensus)"
    if options.needs_consensus and options.ssa == "off" and (names := given("teacher")):
        yield f"{names}: nothing to do where the base's consensus is taught (--pseudo) without --ssa"
    if changes["clicked"] is not None and not options.prompter:
        yield "--partial: nothing to do without a prompter (--prompter)"


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
