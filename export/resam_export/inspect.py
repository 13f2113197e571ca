"""What is inside an engine file, for reading: `resam-export --inspect FILE`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from resam_runtime.engine_file import EngineFile, TensorSpec
from resam_runtime.manifest import FORMAT_VERSION, Manifest

_VALUE = 120  # characters of a value; longer ones are cut


def print_engine(engine: EngineFile, console: Console) -> None:
    """Print an engine file's graphs, limits, provenance and verification. Its digests are checked by opening it."""
    manifest = engine.manifest
    console.print(f"{engine.path}: {_megabytes(engine.path.stat().st_size)}, format {FORMAT_VERSION}, "
                  f"{manifest.backend}, {manifest.precision}", markup=False, highlight=False)  # fmt: skip
    graphs = _table("graphs (every SHA-256 agrees)", "graph", "file", "size", "sha256", "inputs", "outputs")
    for name, spec in manifest.graphs.items():
        size = _megabytes(engine.graph(name).nbytes)
        cells = (name, spec.file, size, spec.sha256[:16], _tensors(spec.inputs), _tensors(spec.outputs))
        graphs.add_row(*map(Text, cells))  # plain text: a name in square brackets is no markup
    console.print(graphs)
    for title, rows in _sections(manifest):
        table = _table(title, "field", "value")
        for field, value in rows:
            table.add_row(Text(field), Text(value))
        console.print(table)


def _sections(manifest: Manifest) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    data = manifest.to_json()
    yield "model", [(key, _value(data[key])) for key in data if key not in _SEPARATE]
    for key in ("tensorrt", "base", "adapter", "training", "verification"):
        rows = list(flatten(data.get(key)))
        if rows:
            yield key, rows


_SEPARATE = ("format", "backend", "precision", "graphs", "tensorrt", "base", "adapter", "training", "verification")


def flatten(data: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Nested plain data as (dotted path, value) pairs, in order; lists of plain values stay one value."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from flatten(value, f"{path}.{key}" if path else str(key))
    elif isinstance(data, list) and any(isinstance(item, dict | list) for item in data):
        for index, item in enumerate(data):
            yield from flatten(item, f"{path}[{index}]")
    elif data is not None:
        yield path, _value(data)


def _value(data: Any) -> str:
    if isinstance(data, float):
        return f"{data:.4g}"
    text = data if isinstance(data, str) else "no limit" if data is None else json.dumps(data)
    text = " ".join(text.split())
    return text if len(text) <= _VALUE else f"{text[: _VALUE - 3]}..."


def _tensors(specs: tuple[TensorSpec, ...]) -> str:
    return "\n".join(f"{spec.name} {spec.dtype} ({', '.join(map(str, spec.shape))})" for spec in specs)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
