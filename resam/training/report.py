"""A run as one page: figures, curves, and for a fixed handful of tiles what the loop made of them, epoch by epoch.

The page is one HTML file with no script and no link. A strip shows, left to right, the tile with its points, the coarse
masks, the refined masks, the box prompts and the final masks, a colour per instance.
"""

from __future__ import annotations

import base64
import html
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from resam.data.spread import spread
from resam.data.tiles import tile_arrays
from resam.data.training_set import TrainingSet
from resam.model.refine_requery import LoopOutput, refine
from resam.training.losses import LOSSES
from resam.training.options import TrainOptions
from resam.training.outputs import write_bytes, writing
from resam.training.pictures import draw_boxes, draw_logits, draw_points, instance_colours
from resam.training.trainer import Trainer
from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import atomic_write

STRIPS = 4  # tiles shown
SHOWN_EPOCHS = 12  # strips of each tile: every epoch of a run of up to eleven, else evenly spread
SIDE = 256  # px of one picture
PANELS = ("points", "coarse", "refined", "box", "final")


@torch.no_grad()
def draw_strips(folder: Path, trainer: Trainer, epoch: int) -> None:
    """Write `strips/TILE-EPOCH.jpg` of the averaged weights, for each epoch or, in a long run, some of them.

    `ResamError` where they cannot be written, or show nothing because weights or masks are not finite.
    """
    if not is_shown(epoch, trainer.options.epochs):
        return
    samples = trainer.samples
    size = trainer.base.architecture.image_size
    for place, number in enumerate(shown_samples(samples)):
        sample = samples.samples[number]
        prompts = [samples.prompts[sample.scene][i] for i in sample.prompts]
        arrays = tile_arrays(samples.data.scenes[sample.scene].read(sample.tile), sample.tile, prompts, size)
        device = trainer.fabric.device
        with trainer.averaged(), trainer.fabric.autocast():
            embedding = trainer.encoder(torch.from_numpy(arrays.image)[None].to(device))
            coords, labels = torch.from_numpy(arrays.coords).to(device), torch.from_numpy(arrays.labels).to(device)
            output = trainer.loop(embedding, coords, labels)
        if not torch.isfinite(output.boxes).all():  # what the last step of an epoch did to the weights shows in no loss
            raise ResamError(f"epoch {epoch}: the adapted model's masks are not finite; lower the learning rate")
        height = arrays.extent[0]
        strip = loop_strip(arrays.image, arrays.coords, arrays.labels, output, trainer.loop.threshold)
        write_strip(folder, place, epoch, strip[: max(1, round(height * SIDE / size))])


def is_shown(epoch: int, epochs: int) -> bool:
    """Whether strips of an epoch are drawn: each of a short run, else some of them."""
    return epoch in {round(i) for i in np.linspace(0, epochs, min(epochs + 1, SHOWN_EPOCHS))}


def write_strip(folder: Path, place: int, epoch: int, strip: NDArray[np.uint8]) -> None:
    """Write `strips/PLACE-EPOCH.jpg` of a strip (h, w, 3) RGB. `ResamError` where it cannot be written."""
    # encoded in memory: OpenCV's own writer says nothing of a full disk and leaves half a picture
    data = cv2.imencode(".jpg", cv2.cvtColor(strip, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    write_bytes(folder / "strips" / f"{place}-{epoch:04d}.jpg", data.tobytes())


def shown_samples(samples: TrainingSet) -> list[int]:
    """The numbers of the tiles shown: of scenes evenly spread over the data set, the tile with most instances."""
    best: dict[int, int] = {}
    for number, sample in enumerate(samples.samples):
        if sample.scene not in best or len(sample.prompts) > len(samples.samples[best[sample.scene]].prompts):
            best[sample.scene] = number
    scenes = sorted(best)
    return [best[scenes[i]] for i in spread(len(scenes), STRIPS)]


def loop_strip(
    image: NDArray[np.uint8],
    coords: NDArray[np.float32],
    labels: NDArray[np.int32],
    output: LoopOutput,
    threshold: float,
    side: int = SIDE,
) -> NDArray[np.uint8]:
    """The loop's stages side by side, (side, 5 * side, 3) uint8 RGB. image: (S, S, 3); coords, labels: its prompts."""
    scale = side / image.shape[0]
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    colours = instance_colours(len(coords))
    coarse = output.coarse_masks.float()
    refined = refine(coarse, threshold)
    stages = (None, (coarse, 0.0), (refined, threshold), None, (output.masks, 0.0))
    panels = []
    for name, masks in zip(PANELS, stages):
        panel = np.ascontiguousarray(small.copy())
        if masks is not None:
            panel = draw_logits(panel, masks[0].float().cpu().numpy(), masks[1], colours)
        if name == "box":
            draw_boxes(panel, output.boxes.float().cpu().numpy() * scale, colours)
        if name in ("points", "box"):
            draw_points(panel, coords * scale, labels, colours)
        panels.append(panel)
    return np.hstack(panels)


def write_report(
    folder: Path,
    options: TrainOptions,
    points: str,
    history: Sequence[Mapping[str, Any]],
    tested: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write `report.html` from what is known so far. points: where they come from, in words; tested: as in `RunResult`.

    `ResamError` where it cannot be written.
    """
    curves = {
        "loss": {"total": [row["total"] for row in history]},
        "mask losses, weighted": _loss_curves("mask", options, history),
        "tile losses": _loss_curves("tile", options, history),
        "pseudo-labels": {"instances with one": [row["labelled"] for row in history]},
    }
    if all("agreement" in row for row in history):
        curves["pseudo-labels"]["IoU of coarse and final"] = [row["agreement"] for row in history]
    if history and all(row.get("watched") and row["watched"]["instances"] for row in history):
        curves["mIoU, watched scenes"] = {
            stage: [row["watched"][stage]["miou"] for row in history] for stage in ("coarse", "final")
        }
    said = f"{'supervised, ' * options.supervised}{points}, base {options.base}"
    shown = f"{', '.join(PANELS)}, with the weights after each epoch shown (0: the base)"
    head = _results_table(tested)
    write_page(folder, said, head, curves, ("Stages of the loop", shown), options.to_dict(), len(history))


def write_page(
    folder: Path,
    said: str,
    results: str,
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    shown: tuple[str, str],
    options: Mapping[str, Any],
    epochs: int,
) -> None:
    """Write `report.html`. said: what the run is, in words; results: HTML; curves: by title and name, a value an epoch;
    shown: a title for the strips, and what each shows, left to right; epochs: those done so far. `ResamError` where it
    cannot be written."""
    body = [
        f"<h1>{html.escape(folder.name)}</h1>",
        f"<p>{html.escape(said)}, {epochs} of {options['epochs']} epochs.</p>",
        results,
        '<div class="curves">',
        *(_curve(title, lines) for title, lines in curves.items()),
        "</div>",
        f"<h2>{html.escape(shown[0])}</h2>",
        f"<p>{html.escape(shown[1])}.</p>",
        *_strips(folder / "strips"),
        "<h2>Options</h2><table>",
        *(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
            for name, value in options.items()
        ),
        "</table>",
    ]
    head = f"<meta charset=utf-8><title>{html.escape(folder.name)}</title><style>{_STYLE}</style>"
    path = folder / "report.html"
    with writing(path), atomic_write(path) as temporary:
        temporary.write_text(f"<!doctype html><html lang=en>{head}" + "\n".join(body) + "</html>\n", "utf-8")


def _loss_curves(of: str, options: TrainOptions, history: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """The terms of a kind that have a weight at the end; those whose weight never changes times it."""
    curves = {}
    for loss in LOSSES:
        if loss.of == of and loss.weight_at(options, 1.0):
            factor = 1.0 if callable(loss.weight) else loss.weight
            name = loss.name if factor == 1 else f"{factor:g} {loss.name}"
            curves[name] = [factor * row[loss.name] for row in history]
    return curves


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1340px;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "table{border-collapse:collapse}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}.curves{display:flex;flex-wrap:wrap;gap:1em}"
    "figure{margin:0}figcaption{font-size:13px;color:#555}img{max-width:100%;display:block}"
    "svg text{font:11px sans-serif}"
)
_INKS = ("#1f6feb", "#d1242f", "#1a7f37", "#8250df", "#9a6700", "#57606a")


def _results_table(tested: Mapping[str, Mapping[str, Any]]) -> str:
    if not tested:
        return "<p>No test split with masks: nothing was measured.</p>"
    heads = ("miou", "miou_images", "precision", "recall", "f1", "miou_small", "miou_medium", "miou_large")
    rows = []
    for name, result in tested.items():
        for stage, called in (("coarse", "Coarse"), ("final", "Requery")):
            cells = ("-" if result[stage][key] is None else f"{result[stage][key]:.3f}" for key in heads)
            rows.append(
                f"<tr><td>{html.escape(name)}, after {called}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
            )
    titles = "".join(f"<th>{head.replace('_', ' ').replace('miou', 'mIoU')}</th>" for head in heads)
    first = next(iter(tested.values()))
    caption = f"Measured on {first['instances']} instances, {first['images']} scenes; means over instances."
    return f"<p>{html.escape(caption)}</p><table><tr><th></th>{titles}</tr>{''.join(rows)}</table>"


def _curve(title: str, lines: Mapping[str, Sequence[float]], width: int = 300, height: int = 150) -> str:
    values = [value for line in lines.values() for value in line]
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    parts = []
    for ink, line in zip(itertools.cycle(_INKS), lines.values()):
        step = (width - 20) / max(1, len(line) - 1)
        points = [(10 + i * step, height - 15 - (value - low) / span * (height - 40)) for i, value in enumerate(line)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{ink}" stroke-width="1.5"/>')
        x, y = points[-1]
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{ink}"/>')
    legend = ", ".join(
        f'<span style="color:{ink}">{html.escape(name)} {line[-1]:.4g}</span>'
        for ink, (name, line) in zip(itertools.cycle(_INKS), lines.items())
    )
    axis = f'<text x="10" y="12">{high:.4g}</text><text x="10" y="{height - 2}">{low:.4g}</text>'
    return (
        f'<figure><svg width="{width}" height="{height}" role="img">'
        f'<rect width="{width}" height="{height}" fill="#f6f8fa"/>'
        f"{axis}{''.join(parts)}</svg><figcaption>{html.escape(title)}: {legend}</figcaption></figure>"
    )


def _strips(folder: Path) -> list[str]:
    figures = []
    for path in sorted(folder.glob("*.jpg")):
        place, epoch = path.stem.split("-")
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        caption = f"tile {int(place) + 1}, epoch {int(epoch)}"
        image = f'<img src="data:image/jpeg;base64,{data}" alt="{caption}">'
        figures.append(f"<figure><figcaption>{caption}</figcaption>{image}</figure>")
    return figures
