"""`resam-export`: parsing and printing. `write_engine` writes .resam files, `resam_export.tensorrt` .plan files.

Neither torch nor onnx is imported here: with a .resam file this command runs on a device that has neither.
"""

from __future__ import annotations

import errno
import os
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console

from resam_runtime.common.commands import HELP, version
from resam_runtime.common.errors import ResamError, command_errors
from resam_runtime.common.gpu import NotHereError
from resam_runtime.common.option_types import Bytes
from resam_runtime.engine.backends.onnx import OnnxBackend
from resam_runtime.engine.backends.tensorrt import TensorRTBackend
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.engine.precisions import FP16, FP32, PRECISIONS, Precision

from .inspect import print_engine
from .progress import print_written, step_progress
from .targets import TARGETS
from .tensorrt.build import BuiltGraph, PlanOptions, Toolchain, build_plan
from .tensorrt.precision import check_precision
from .tensorrt.profiles import Limits
from .write_engine import newest_run, write_engine

RESAM, PLAN = OnnxBackend.suffix, TensorRTBackend.suffix
_PATH = click.Path(path_type=Path)
_PLAN_OPTIONS = (
    "max_points", "points_per_instance", "workspace", "timing_cache",
    "version_compatible", "hardware_compatible",
)  # fmt: skip
_EXAMPLES = """
\b
Examples:
  resam-export                                    newest run under runs/ -> model.resam (float32)
  resam-export runs/ships --fp16 -o ships.resam   float16, checked against torch
  resam-export ships.resam -o ships.plan          on the device: TensorRT alone, no torch
  resam-export runs/ships --int8-fp32 --images tiles/ -o ships.resam   for CPUs
  resam-export ships.resam --for x-anylabeling -o labelling/   for another tool
  resam-export --inspect ships.plan               what is inside
"""


def _precision_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A flag for each precision, in the order of the table."""
    usual = {FP32: RESAM, FP16: PLAN}
    for precision in reversed(PRECISIONS.values()):
        note = f"  [default for a {usual[precision]}]" if precision in usual else ""
        command = click.option(precision.option, is_flag=True, help=precision.help + note)(command)
    return command


@click.command("resam-export", context_settings=HELP, epilog=_EXAMPLES)
@click.argument("source", required=False, type=_PATH, metavar="[ADAPTER|MODEL.resam]")
@click.option("-o", "--output", type=_PATH, help="File to write, ending in .resam (ONNX graphs, any machine) or "
              ".plan (TensorRT, this GPU)  [default: model.resam, or MODEL.plan beside MODEL.resam]")  # fmt: skip
@click.option("--for", "target", type=click.Choice(list(TARGETS)), help="Write for another tool, into the folder "
              "-o: what a click gives there is the coarse mask.")  # fmt: skip
@_precision_options
@click.option("--base", help="Base to export as it is ('tiny' or a SAM checkpoint), or the one ADAPTER was trained on.")
@click.option("--images", type=_PATH, help="Folder of your images, for verification and calibration.")
@click.option("--edges", is_flag=True, help="Faster on CPUs: masks are made in full only where their edges may lie.")
@click.option("--size", multiple=True, metavar="NAME=SIZE", help="How large the objects of a class are: "
              "ship=30x6m, or tank=12px; may be repeated. For a point of that class the engine takes the mask nearest "
              "to that size  [default: the sizes that the adapter was trained with].")  # fmt: skip
@click.option("--keep-anyway", is_flag=True, help="Write the file even if it fails verification.")
@click.option("--max-points", type=click.IntRange(1, 4096), default=64, show_default=True,
              help=".plan: maximum instances per call.")  # fmt: skip
@click.option("--points-per-instance", type=click.IntRange(1, 256), default=8, show_default=True,
              help=".plan: maximum points per instance.")  # fmt: skip
@click.option("--workspace", type=Bytes(), help=".plan: scratch memory limit, such as 512M or 2G  [default: no limit]")
@click.option(
    "--timing-cache", type=_PATH, help=".plan: file of kernel timings, to speed up later builds on this device."
)
@click.option(
    "--version-compatible", is_flag=True, help=".plan: loadable by later TensorRT releases of the same major version."
)
@click.option("--hardware-compatible", is_flag=True, help=".plan: runs on any GPU of compute capability 8.0 or later.")
@click.option(
    "--inspect", "inspected", type=_PATH, metavar="FILE", help="Print the contents of an engine file and exit."
)
@click.pass_context
@version
@command_errors
def export(ctx: click.Context, **given: Any) -> None:
    """Write an engine file from ADAPTER (an adapter file or a run's folder; by default the newest run under runs/),
    or compile MODEL.resam for TensorRT on this machine.

    Every graph is compared with torch before a .resam is written. Exporting an adapter to a .plan also writes the
    .resam beside it, so that it can be compiled on other machines; a .resam of another adapter, base or precision is
    not replaced. A plan has the precision of its .resam: choose --fp16 or --int8 when the .resam is written.
    """
    console = Console(width=None if Console().is_terminal else 160)
    if given["inspected"] is not None:
        _check_alone(ctx)
        print_engine(EngineFile.open(given["inspected"]), console)
        return
    chosen = [precision for name, precision in PRECISIONS.items() if given[name.replace("-", "_")]]
    if len(chosen) > 1:
        raise ResamError(f"{chosen[0].option} and {chosen[1].option}: an engine has one precision; give one of them")
    given["precision"] = chosen[0] if chosen else None
    if given["target"] is not None:
        _write_for(ctx, given, console)
        return
    source: Path | None = given["source"]
    from_engine = source is not None and source.suffix == RESAM
    usual = source.with_suffix(PLAN) if source and from_engine else Path("model").with_suffix(RESAM)
    output = given["output"] or usual
    _check_names(source, output, given)
    if given["workspace"] == 0:
        raise ResamError("--workspace: expected more than 0 bytes, such as 512M; or leave it out")
    set_here = [name for name in _PLAN_OPTIONS if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT]
    if output.suffix == RESAM and set_here:
        flag = set_here[0].replace("_", "-")
        raise ResamError(f"--{flag} applies only to plans; choose an --output ending in .plan, or leave it out")
    engine_path = output.with_suffix(RESAM)
    if source is not None and from_engine:
        engine_path = source
    else:
        precision: Precision = given["precision"] or (FP16 if output.suffix == PLAN else FP32)
        plan = output if output.suffix == PLAN else None
        _write_resam(source, engine_path, precision, given, console, plan)
    if output.suffix == PLAN:
        write_plan(engine_path, output, given, set_here, console)


def _write_resam(
    source: Path | None,
    path: Path,
    precision: Precision,
    given: dict[str, Any],
    console: Console,
    plan: Path | None = None,
) -> None:
    """`write_engine` with what was given on the command line."""
    base, images, keep_anyway = given["base"], given["images"], given["keep_anyway"]
    write_engine(source, base, path, precision, images, keep_anyway, console, plan, given["size"], given["edges"])


def _write_for(ctx: click.Context, given: dict[str, Any], console: Console) -> None:
    """Files for another tool, from an engine file, or from an adapter or a base, whose engine is left beside them."""
    source, folder, option = given["source"], given["output"], f"--for {given['target']}"
    if folder is None:
        raise ResamError(f"{option}: needs -o DIR, the folder to write into")
    if folder.suffix in (RESAM, PLAN) or (os.path.lexists(folder) and not folder.is_dir()):
        raise ResamError(f"{folder}: {option} writes several files; give a folder")
    for name in _PLAN_OPTIONS:
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise ResamError(f"--{name.replace('_', '-')} is for plans, and {option} writes none; leave it out")
    engine_file = source
    if source is not None and source.suffix == RESAM:
        _check_finished(source, given)
        if given["precision"] is not None:
            flag = given["precision"].option
            raise ResamError(f"{flag} goes with an adapter; {source} holds finished graphs: leave it out")
    else:
        if source is None and given["base"] is None:
            source = newest_run().parent
            console.print(f"adapter {source}", markup=False, highlight=False)
        made_from = Path(given["base"]) if source is None else source.parent if source.is_file() else source
        engine_file = folder / f"{made_from.resolve().stem}{RESAM}"
        _check_names(source, engine_file, given)
        _write_resam(source, engine_file, given["precision"] or FP32, given, console)
    for path in TARGETS[given["target"]](EngineFile.open(engine_file), folder):
        size = path.stat().st_size / 1e6
        console.print(f"wrote   {path} ({size:.1f} MB)", markup=False, highlight=False, soft_wrap=True)


def _check_alone(ctx: click.Context) -> None:
    """`ResamError` for anything that was given beside --inspect."""
    for parameter in ctx.command.params:
        name = str(parameter.name)
        if name != "inspected" and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            what = "the other file" if name == "source" else parameter.opts[-1]
            raise ResamError(f"--inspect FILE only prints; leave out {what}")


def _check_names(source: Path | None, output: Path, given: dict[str, Any]) -> None:
    if output.suffix not in (RESAM, PLAN):
        raise ResamError(f"{output}: expected a name ending in .resam (any machine) or .plan (TensorRT, this GPU)")
    folder = next(folder for folder in output.absolute().parents if os.path.exists(folder))
    try:  # now, not after minutes of work
        if os.path.isdir(output):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        tempfile.NamedTemporaryFile(prefix=f".{output.stem}.", suffix=output.suffix, dir=folder).close()
    except OSError as error:
        raise ResamError(f"{output}: cannot be written ({error.strerror}); choose another name") from None
    if source is None:
        return
    if source.suffix == PLAN:
        raise ResamError(f"{source}: holds compiled plans; give the .resam or the adapter that it was made from")
    if source.suffix == RESAM:
        if output.suffix == RESAM:
            raise ResamError(f"{source}: its graphs are final; for other ones run resam-export ADAPTER -o {output}")
        _check_finished(source, given)


def _check_finished(source: Path, given: dict[str, Any]) -> None:
    """`ResamError` for options that decide graphs, where those of an engine file are finished."""
    misplaced = [name for name in ("base", "images", "size", "edges") if given[name]]
    if misplaced:
        raise ResamError(f"--{misplaced[0]} goes with an adapter; {source} holds finished graphs: leave it out")


def write_plan(source: Path, output: Path, given: dict[str, Any], set_here: list[str], console: Console) -> None:
    """Compile a .resam; where TensorRT or the GPU is missing, say so, and which command to run where they are."""
    engine = EngineFile.open(source)
    precision = check_precision(engine, given["precision"], output)
    if engine.manifest.upscaling == "edges":
        raise ResamError(
            f"{source}: made with --edges, which TensorRT cannot compile; export it without, then here again"
        )
    options = PlanOptions(
        Limits(given["max_points"], given["points_per_instance"]),
        given["workspace"],
        given["timing_cache"],
        given["version_compatible"],
        given["hardware_compatible"],
        given["keep_anyway"],
    )
    try:
        toolchain = Toolchain.find()
    except NotHereError as missing:
        command = _command(source, output, precision, given, set_here)
        raise ResamError(
            f"{output}: not built: {missing}; copy {source} to the device that is to run it "
            f"(TensorRT 10.3 or later) and run there: {command}"
        ) from None
    try:
        with step_progress() as show:
            built = build_plan(engine, output, options, toolchain, show)
    except OSError as error:
        raise ResamError(f"{output}: not written ({error.strerror or error}); choose another place") from None
    for name, graph in built.items():
        console.print(f"  {_graph_line(name, graph)}", markup=False, highlight=False)
    print_written(output, console)


def _graph_line(name: str, graph: BuiltGraph) -> str:
    line = f"{name:8} {graph.layers} layers, {graph.nbytes / 1e6:.1f} MB, {graph.seconds:.1f} s"
    return line + (f", {len(graph.warnings)} warnings (see --inspect)" if graph.warnings else "")


def _command(source: Path, output: Path, precision: Precision, given: dict[str, Any], set_here: list[str]) -> str:
    """This command as it is to be run beside a copy of the .resam."""
    words = ["resam-export", source.name, precision.option, "-o", output.name]
    for name in set_here:
        words.append(f"--{name.replace('_', '-')}")
        if given[name] is not True:
            words.append(str(given[name]))
    return shlex.join(words)
