"""`resam-annotate`."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import click

from resam_runtime.common.browser import open_browser
from resam_runtime.common.commands import HELP, second_signal_ends, version
from resam_runtime.common.errors import command_errors

EPILOG = """Example: resam-annotate scenes/ --engine model.resam -o points.json"""


@click.command("resam-annotate", context_settings=HELP, epilog=EPILOG)
@click.argument("images", type=click.Path(path_type=Path))
@click.option(
    "--engine", type=click.Path(path_type=Path), help="Engine file: shows the mask of each instance as you click."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Points file to edit or create.  [default: points.json in IMAGES]",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; with any but this machine's own, anyone who can reach it can edit the points.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on, 0 for any free one.  [default: the same one for the same points file, so that an open "
    "page reconnects]",
)
@click.option("--device", help="Device for the engine, such as cpu or cuda.  [default: the best available]")
@click.option("--no-browser", is_flag=True, help="Print the address without opening a browser.")
@version
@command_errors
def annotate(
    images: Path,
    engine: Path | None,
    output: Path | None,
    host: str,
    port: int | None,
    device: str | None,
    no_browser: bool,
) -> None:
    """Click points on a folder's images in the browser.

    Every click is saved at once. Several windows may work on one folder. Stop with Ctrl-C.
    """
    from resam_runtime.annotate.images import SceneImages, list_scenes
    from resam_runtime.annotate.preview import MaskPreview
    from resam_runtime.annotate.server import AnnotateServer
    from resam_runtime.annotate.store import PointsStore

    root, names = list_scenes(images)
    store = PointsStore(output or root / "points.json", names)
    scenes = SceneImages(root, names)
    preview = None
    if engine is not None:
        from resam_runtime.segment.segmenter import Segmenter

        preview = MaskPreview(Segmenter(engine, device=device), scenes)
    with AnnotateServer(host, port, scenes, store, preview) as server:
        many = "" if len(names) == 1 else "s"
        click.echo(f"{len(names)} image{many} in {root}, points in {store.path}\n{server.url}  (Ctrl-C ends)")
        if not server.loopback:
            click.echo("note: anyone who can reach this address can see the images and edit the points", err=True)
        if not no_browser:
            open_browser(server.url)
        received: list[int] = []

        def end(number: int, frame: object) -> None:
            received.append(number)
            if len(received) == 1:
                raise KeyboardInterrupt

        for number in (signal.SIGINT, signal.SIGTERM):  # a service manager's ends it as Ctrl-C does
            signal.signal(number, end)
        with second_signal_ends(received):
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever(poll_interval=0.2)
            scenes.close()
