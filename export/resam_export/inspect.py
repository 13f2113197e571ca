"""What is inside an engine file, for reading: `resam-export --inspect FILE`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.engine.manifest import FORMAT_VERSION, TensorSpec

_VALUE = 120  # characters of a value; longer ones are cut


def print_engine(engine: EngineFile, console: Console) -> None:
    """Print an engine file's graphs, limits, provenance and verification. Its digests are checked by opening it."""
    manifest = engine.manifest
    console.print(f"{engine.path}: {_megabytes(engine.path.stat().st_size)}, format {FORMAT_VERSION}, "
                  f"{manifest.backend}, {manifest.precision}", markup=False, highlight=False)  # fmt: skip
    graphs = _table("graphs (every SHA-256 agrees)", "graph", "file", "size", "sha256", "inputs", "outputs")
    for name, spec in manifest.graphs.items():
        size = _megabytes(engine.size(name))
        cells = (name, spec.file, size, spec.sha256[:16], _tensors(spec.inputs), _tensors(spec.outputs))
        graphs.add_row(*map(_cell, cells))
    console.print(graphs)
    data = manifest.to_json()
    _print_fields("model", {key: data[key] for key in data if key not in _SEPARATE}, console)
    for key in ("tensorrt", "base", "adapter", "training"):
        _print_fields(key, data.get(key), console)
    print_verification(manifest.verification, console)


def print_verification(verification: Mapping[str, Any], console: Console) -> None:
    """Print what an export was checked for: a table for what is measured several times, fields for the rest.

    Parts whose values are all mappings (tensor -> {inputs: error}) are tables, but for `precision`, whose mappings
    have nothing in common; a file of another version may have others, and is printed all the same.
    """
    rest: dict[str, Any] = {}
    tables = [(key, part) for key, part in verification.items() if key != "plan"]
    plan = verification.get("plan")
    if isinstance(plan, dict):
        tables.append(("plan", plan.get("graphs")))
        rest["plan.source"] = plan.get("source")
    for key, part in tables:
        rows = part.values() if isinstance(part, dict) and key != "precision" else ()
        if not rows or not all(isinstance(row, dict) for row in rows):
            rest[key] = part
            continue
        columns = list(dict.fromkeys(column for row in part.values() for column in row))
        table = _table(f"verification: {key}", "", *columns)
        for name, row in part.items():
            cells = (_value(row[column]) if row.get(column) is not None else "" for column in columns)
            table.add_row(*map(_cell, (str(name), *cells)))
        console.print(table)
    _print_fields("verification", rest, console)


def _print_fields(title: str, data: Any, console: Console) -> None:
    rows = [(key, _value(value)) for key, value in data.items()] if title == "model" else list(flatten(data))
    if rows:
        table = _table(title, "field", "value")
        for field, value in rows:
            table.add_row(_cell(field), _cell(value))
        console.print(table)


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


def _cell(text: str) -> Text:
    """Plain text: a name in square brackets is no markup, and what a foreign file holds moves no cursor."""
    return Text("".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_edge=False)
    for column in columns:
        table.add_column(_cell(column), overflow="fold")
    return table
