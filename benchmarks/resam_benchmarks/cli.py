"""resam-bench: parsing and printing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from resam_benchmarks.ablation.rows import NAMES
from resam_benchmarks.baselines.table import BASELINES
from resam_benchmarks.baselines.weights import PACKAGES
from resam_benchmarks.report.console import ends_cleanly, not_negative, numbers, percent, print_tables, progress_bar
from resam_benchmarks.report.document import check_folder
from resam_runtime.common.commands import HELP, output_folder, version
from resam_runtime.common.errors import ResamError, command_errors
from resam_runtime.common.extras import check_installed, needs_extra
from resam_runtime.common.option_types import TrainingPrecision
from resam_runtime.engine.precisions import FP32, PRECISIONS

_PATH = click.Path(path_type=Path)


class _WithDefault(click.Group):
    """A group whose first argument need not be a command: what is none goes to `run`. Its settings are its commands'
    own, since click keeps the help option of a command's first call, which need not come through the group."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        cmd.context_settings = {**self.context_settings, **cmd.context_settings}
        super().add_command(cmd, name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h", "--version"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_WithDefault,
    context_settings=HELP,
    no_args_is_help=True,
    epilog="Example: resam-bench base.resam adapted.resam --data nwpu --points 1,2,3 --baseline segment-anything",
)
@version
def bench() -> None:
    """Measure engines and their rivals in one run, on the same scenes and points.

    resam-bench ENGINE... [OPTIONS] is short for resam-bench run ENGINE... [OPTIONS].
    """


def _shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that several commands have."""
    for option in (
        click.option("--device", help="cpu, cuda, cuda:1, ...  [default: the best available]"),
        click.option(
            "--threads", type=click.IntRange(1), help="CPU threads of every rival.  [default: its own choice]"
        ),
        click.option("-q", "--quiet", is_flag=True, help="No progress."),
    ):
        command = option(command)
    return command


@bench.command(epilog="Example: resam-bench run base.resam adapted.resam --data nwpu --points 1,2,3 -o bench")
@click.argument("engines", nargs=-1, type=_PATH, metavar="ENGINE...")
@click.option("--data", type=_PATH, help="COCO data set: a folder with SPLIT.json and images/, or an annotation file. "
              "Without it: latency only, on a synthetic scene of 1024 px.")  # fmt: skip
@click.option("--split", default="test", show_default=True, help="Annotation file in the folder (SPLIT.json).")
@click.option("--points", default="1", show_default=True, callback=numbers, help="Points per instance, such as 1,2,3.")
@click.option("--negatives", is_flag=True, help="Add as many negative points, drawn outside the true mask (the "
              "paper's protocol).")  # fmt: skip
@click.option(
    "--prompts", default="1,16,64", show_default=True, callback=numbers, help="Prompts of the synthetic scene."
)
@click.option("--baseline", "baselines", multiple=True, type=click.Choice(list(BASELINES)), help="A rival with the "
              "weights of the first engine; may be repeated.")  # fmt: skip
@click.option(
    "--views", type=click.IntRange(1), default=1, help="Measure each engine again with resam-run's --views N."
)
@click.option("--random", metavar="NAME", help="Random weights of an architecture (vit_b, mobile_sam, ...), in place "
              "of engine files: latency of the true size without a download.")  # fmt: skip
@click.option("--precision", multiple=True, type=click.Choice(list(PRECISIONS)), default=(FP32.name,),
              show_default=True, help="Precision for --random; may be repeated.")  # fmt: skip
@click.option("--base-weights", help="Checkpoint behind the first engine, for baselines.  [default: tiny]")
@click.option("--adapter", type=_PATH, help="adapter.safetensors behind the first engine, for baselines.")
@click.option("--limit", type=click.IntRange(1), help="Maximum number of scenes, evenly chosen.")
@click.option("--repeats", type=click.IntRange(1), help="Measurements per scene.  [default: 3; 10 without --data]")
@click.option("--automatic", default=8, show_default=True, type=click.IntRange(0), help="Scenes to run "
              "without points.")  # fmt: skip
@click.option(
    "--tolerance", default=2.0, show_default=True, callback=not_negative, help="Tolerance of the boundary F-score, px."
)
@output_folder("bench", "Output folder.")
@_shared
@version
@command_errors
def run(out: Path, quiet: bool, **chosen: Any) -> None:
    """Measure latency, memory, energy and mask quality of ENGINE files and baselines.

    Writes bench.json (machine, versions, seeds, raw samples) and bench.html (tables and plots, one file).
    """
    from resam_benchmarks.bench import BenchOptions, benchmark

    _refuse_idle()
    _check_installed(chosen["random"], chosen["baselines"])
    with ends_cleanly(), progress_bar(quiet) as progress:
        data = benchmark(BenchOptions(**chosen), out, _typed(), progress)
    print_tables(data)
    for note in data["data"].get("notes", ()):
        click.echo(note, err=True)
    click.echo(out / "bench.html")


@bench.command(epilog="Example: resam-bench find clicked.resam masks.resam --data nwpu --automatic 16 -o finding")
@click.argument("engines", nargs=-1, required=True, type=_PATH, metavar="ENGINE...")
@click.option("--data", required=True, type=_PATH, help="COCO data set: a folder with SPLIT.json and images/, or an "
              "annotation file.")  # fmt: skip
@click.option("--split", default="test", show_default=True, help="Annotation file in the folder (SPLIT.json).")
@click.option("--limit", type=click.IntRange(1), help="Maximum number of scenes, evenly chosen.")
@click.option("--automatic", default=8, show_default=True, type=click.IntRange(0), help="Of these, scenes for the grid "
              "of --automatic, which is slow.")  # fmt: skip
@output_folder("finding", "Output folder.")
@_shared
@version
@command_errors
def find(engines: tuple[Path, ...], data: Path, split: str, out: Path, quiet: bool, **chosen: Any) -> None:
    """Measure what ENGINE files find without points: with their prompters, and with the grid of --automatic.

    Uses COCO's own evaluation. Writes finding.json, and for engines trained
    on different numbers of images the plot finding.svg.
    """
    from resam_benchmarks.finding.curve import write_curve
    from resam_benchmarks.finding.find_bench import measure, table_of
    from resam_benchmarks.measure.dataset import annotation_file
    from resam_benchmarks.report import document

    check_installed("resam-bench find", "dev", "pycocotools")
    check_folder(out)
    with ends_cleanly(), progress_bar(quiet) as progress:
        found = measure(engines, annotation_file(data, split), progress=progress, **chosen)
    document.write(out / "finding.json", {**found, "command": _typed()})
    print_tables(None, [table_of(found)])
    click.echo(out / "finding.json")
    if write_curve(out / "finding.svg", found):
        click.echo(out / "finding.svg")


@bench.command(epilog="Example: resam-bench compare main/bench.json bench/bench.json --limit 10%")
@click.argument("before", type=_PATH)
@click.argument("after", type=_PATH)
@click.option(
    "--limit", default="10%", show_default=True, callback=percent, help="Allowed increase of latency, memory and size."
)
@click.option(
    "--miou-limit",
    default=0.01,
    show_default=True,
    callback=not_negative,
    help="Allowed drop of mIoU, boundary F and recall.",
)
@click.option("--quality-only", is_flag=True, help="Compare masks only, as for runs on two machines.")
@version
@command_errors
def compare(before: Path, after: Path, limit: float, miou_limit: float, quality_only: bool) -> None:
    """Exit with code 1 where AFTER is worse than BEFORE by more than a limit and more than the noise, or lacks
    something BEFORE measured.

    Runs on different scenes, and timings from two machines, cannot be compared: exit code 2.
    """
    from resam_benchmarks.report import compare as comparing
    from resam_benchmarks.report import document
    from resam_benchmarks.report.console import print_comparison

    found = comparing.compare(document.read(before), document.read(after), limit, miou_limit, quality_only)
    print_comparison(found)
    if found.failed:
        sys.exit(1)


@bench.command(epilog="Example: resam-bench robustness base.resam adapted.resam --data nwpu --limit 20")
@click.argument("engines", nargs=-1, required=True, type=_PATH, metavar="ENGINE...")
@click.option("--data", type=_PATH, required=True, help="COCO data set, as for run.")
@click.option("--split", default="test", show_default=True, help="Annotation file in the folder (SPLIT.json).")
@click.option("--points", default=1, show_default=True, type=click.IntRange(1), help="Points per instance.")
@click.option("--limit", type=click.IntRange(1), help="Maximum number of scenes, evenly chosen.")
@output_folder("robustness", "Output folder.")
@_shared
@version
@command_errors
def robustness(
    engines: tuple[Path, ...], data: Path, split: str, points: int, limit: int | None, out: Path, **rest: Any
) -> None:
    """Measure mIoU under corruptions (noise, blur, haze, ...) at five severities: a curve per corruption and engine.

    Writes robustness.json and robustness.html.
    """
    from resam_benchmarks.robustness.curves import measure, tables_of, write_results

    _refuse_idle()
    check_folder(out)
    with progress_bar(rest["quiet"]) as progress:
        found = measure(engines, data, split, points, limit, rest["device"], rest["threads"], progress)
    write_results(found, out, _typed())
    print_tables(None, tables_of(found))
    click.echo(out / "robustness.html")


@bench.command(epilog="Example: resam-bench train --random vit_b --instances 1,50 --steps 2")
@click.option("--random", default="tiny", show_default=True, metavar="NAME", help="Architecture "
              "(tiny, vit_b, mobile_sam, ...), with random weights.")  # fmt: skip
@click.option("--instances", default="1,16", show_default=True, callback=numbers, help="Instances per image.")
@click.option("--steps", default=6, show_default=True, type=click.IntRange(1), help="Measured steps of each case.")
@click.option(
    "--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]), help="bf16: autocast."
)
@click.option(
    "--reference-precision",
    type=click.Choice(["fp32", "bf16"]),
    help="Precision of the reference's step.  [default: that of --precision]",
)
@output_folder("bench-train", "Output folder.")
@_shared
@version
@command_errors
def train(random: str, instances: tuple[int, ...], steps: int, precision: str, out: Path, **rest: Any) -> None:
    """Measure our training step against a plain re-implementation of the reference's, on the same weights and images.

    Seconds per image and peak memory, each step in a process of its own, taking turns. Writes train.json and
    train.html.
    """
    from resam_benchmarks.steps.train_bench import measure_steps, table_of, write_results

    with needs_extra("resam-bench train", "train"):
        import resam.training.step  # noqa: F401 (what both steps need, each in a process of its own)
    check_folder(out)
    with progress_bar(rest["quiet"]) as progress:
        other, where = rest["reference_precision"], (rest["device"], rest["threads"])
        found = measure_steps(random, instances, steps, *where, precision, progress, reference_precision=other)
    write_results(found, out, _typed())
    print_tables(None, [table_of(found)])
    click.echo(out / "train.html")


@bench.command(epilog="Example: resam-bench ablation --data synthetic --data nwpu --seeds 3 -o ablation")
@click.option("--data", multiple=True, default=("synthetic",), show_default=True, help="Folder with train.json, "
              "test.json and images/, or synthetic; may be repeated.")  # fmt: skip
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Runs of every row.")
@click.option("--base", help="tiny, or a SAM checkpoint file.  [default: the preset's]")
@click.option("--preset", default="tiny", show_default=True, help="A preset of resam-train, or a TOML file.")
@click.option("--rows", help=f"Rows to run, separated by commas: {', '.join(NAMES)}.  [default: all]")
@click.option("--epochs", type=click.IntRange(0), help="Passes over the tiles.  [default: the preset's]")
@click.option(
    "--scenes", default=10, show_default=True, type=click.IntRange(0), help="Maximum training scenes (0: all)."
)
@click.option("--limit", default=8, show_default=True, type=click.IntRange(0), help="Maximum test scenes (0: all).")
@click.option("--precision", default="auto", show_default=True, type=TrainingPrecision(), help="As for resam-train.")
@click.option("--set", "options", multiple=True, metavar="NAME=VALUE", help="Any option of resam-train that no row "
              "sets, for all rows.")  # fmt: skip
@output_folder("ablation", "Output folder.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@version
@command_errors
def ablation(
    rows: str | None,
    base: str | None,
    epochs: int | None,
    options: tuple[str, ...],
    out: Path,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Measure what each part of the method adds: every row is trained on the same data with the same seeds.

    Writes ablation.json after each run, so that a stopped study can be resumed, and ablation.html.
    """
    with needs_extra("resam-bench ablation", "train"):
        import resam.training.run  # noqa: F401 (all that a row needs: said now, not after scenes were drawn)
        from resam.training.options import parse_changes
    from resam_benchmarks.ablation.study import Settings, ablate
    from resam_benchmarks.ablation.table import tables_of, write_page

    check_folder(out)
    changes = parse_changes(options)
    for name, value in (("base", base), ("epochs", epochs)):
        if value is not None and changes.setdefault(name, value) != value:
            raise ResamError(f"--{name} and --set {name}: two values of one option; give one of them")
    named = NAMES if rows is None else tuple(name.strip() for name in rows.split(","))
    with progress_bar(quiet) as progress:
        settings = Settings(rows=named, changes=changes, **chosen)
        found = ablate(settings, out, _typed(), progress, lambda text: None if quiet else click.echo(text, err=True))
    write_page(found, out / "ablation.html")
    print_tables(None, tables_of(found))
    click.echo(out / "ablation.html")


def _refuse_idle() -> None:
    """An option that was given and does nothing is a mistake of the person who gave it: better said now."""
    context = click.get_current_context()
    given = context.params
    idle: dict[str, str] = {}
    if given["data"] is None:
        idle |= dict.fromkeys(("points", "negatives", "split", "limit", "tolerance"), "needs --data")
        if given["automatic"] > 0:  # 0 asks for none, and gets none
            idle["automatic"] = "needs --data"
    else:
        idle["prompts"] = "--data has prompts of its own; see --points"
        if os.path.isfile(given["data"]):
            idle["split"] = "--data is one annotation file; give its folder, or leave out --split"
    if not given.get("baselines"):
        idle |= dict.fromkeys(("base_weights", "adapter"), "is for baselines; needs --baseline")
    elif given["random"] is not None:
        idle |= dict.fromkeys(("base_weights", "adapter"), "the weights of --random are made here; leave it out")
    if given.get("random") is None:
        idle["precision"] = "needs --random; an engine file has its own"
    for name, reason in idle.items():
        if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            raise ResamError(f"--{name.replace('_', '-')}: {reason}")


def _check_installed(random: str | None, baselines: tuple[str, ...]) -> None:
    """What rivals import in processes of their own: there a package that is missing would be a traceback."""
    if random is not None:
        check_installed("--random", "train,export", *PACKAGES, "onnx", "onnxscript")
    for name in baselines:
        check_installed(f"--baseline {name}", BASELINES[name].extras, *BASELINES[name].packages)


def _typed() -> str:
    """The command as typed."""
    import shlex

    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


if __name__ == "__main__":
    bench()
