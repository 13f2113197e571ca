"""`resam-export`: parsing and printing; `resam_export.engine` does the work."""

from __future__ import annotations

from pathlib import Path

import click

from resam_runtime.errors import ResamError, command_errors

RUNS = Path("runs")


@click.command("resam-export", epilog="Example: resam-export runs/mine/adapter.safetensors -o model.resam")
@click.argument("adapter", required=False, type=click.Path(path_type=Path))
@click.option("--base", help="Export a bare base ('tiny' or a SAM checkpoint), or the one an adapter was trained on.")
@click.option("-o", "--output", default="model.resam", show_default=True, type=click.Path(path_type=Path))
@command_errors
def export(adapter: Path | None, base: str | None, output: Path) -> None:
    """Write an engine file (ONNX graphs, float32) from ADAPTER, by default that of the newest run under runs/.

    Every graph is compared with torch before the file is written.
    """
    if output.suffix != ".resam":
        raise ResamError(f"{output}: this version writes .resam engine files only; choose a name ending in .resam")
    if adapter is None and base is None:
        found = sorted(RUNS.glob("*/adapter.safetensors"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise ResamError("no adapter given and none under runs/; run resam-train, or give --base tiny")
        adapter = found[-1]
    from resam.model.bases import load_base
    from resam.training.checkpoints import load_adapted

    from .engine import export_engine

    opened = None
    if adapter is not None:
        loaded, opened = load_adapted(adapter, base)
    else:
        loaded = load_base(base or "tiny")
    errors = export_engine(loaded, opened, output, lambda name: click.echo(f"exporting {name}"))
    for tensor, error in errors.items():
        click.echo(f"  {tensor:24} relative error {error:.1e}")
    click.echo(f"engine  {output} ({output.stat().st_size / 1e6:.1f} MB)")
