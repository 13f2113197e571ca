"""Files of a run that hold tensors: the adapter, which is its result, and checkpoints, from which it goes on.

Both are written whole or not at all. An adapter is a safetensors file of the tensors of `resam.model.parts`, with its
provenance as JSON in the metadata under `resam`: base (name, SHA-256, architecture), data, options, metrics, version.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from resam.encoders.family import describe_architecture
from resam.model.bases import Base, load_base, published_names
from resam.model.parts import PrompterHead, load_adapter, merge_adapter
from resam.training.options import read_options
from resam.training.outputs import write_bytes
from resam_runtime.common.checked import Kind, Malformed, is_number, kind, mapping_of, shown, take
from resam_runtime.common.errors import ResamError, one_line, system_error
from resam_runtime.common.files import sha256_file
from resam_runtime.tiles.tiling import Framing


def _json_text(spec: Any) -> Kind:
    """JSON in a text, of a kind: the metrics of a run, among which may be NaN."""

    def take_text(value: Any) -> str:
        try:
            return json.dumps(take(json.loads(take(value, str)), spec))
        except (ValueError, RecursionError):
            raise Malformed("expected JSON") from None

    return take_text


def _figure(value: Any) -> float | None:
    if value is not None and not is_number(value):
        raise Malformed(f"expected a number or null, got {shown(value)}")
    return value


_FIGURES = ("miou", "miou_images", "precision", "recall", "f1", "miou_small", "miou_medium", "miou_large")
_MEASURED = {"instances": int, "images": int} | {
    stage: dict.fromkeys(_FIGURES, _figure) for stage in ("coarse", "final")
}


def _row(value: Any) -> dict[str, Any]:
    """An epoch's: figures by their names, but for what was measured on the watched scenes."""
    row: dict[str, Any] = take(value, {"epoch": int, "step": int})
    return {name: one if name == "watched" else take(one, _figure, name) for name, one in row.items()}


def _named(spec: Any) -> Kind:
    return mapping_of(kind(spec))


PROVENANCE = kind({"base": {"name": str, "sha256": str}, "options": {"base": str | None}})
CHECKPOINT = kind({
    "trainer": dict,
    "identity": dict,
    "history": _json_text([_row]),
    "tested": _json_text(_named(_MEASURED)),
    "framing": Framing,
})  # fmt: skip
KEPT = 2  # checkpoints kept in a run; older ones are removed once a newer one is whole


@dataclass(frozen=True)
class Adapter:
    """Its tensors, where they come from, and their file with its SHA-256."""

    state: dict[str, torch.Tensor]
    provenance: dict[str, Any]
    sha256: str
    path: Path

    @classmethod
    def open(cls, path: str | Path) -> Adapter:
        """Read an adapter file (or the one in a run's folder). `ResamError` for anything else."""
        path = Path(path)
        path = path / "adapter.safetensors" if path.is_dir() else path
        if not path.is_file():
            raise ResamError(f"{path}: no such adapter; resam-train writes one")
        try:
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get("resam", "null")
                # metrics of no scenes are NaN
                provenance = take(json.loads(text), PROVENANCE, "its metadata")
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, ValueError, RecursionError) as error:
            raise ResamError(f"{path}: not an adapter of resam-train ({one_line(error)})") from None
        return cls(state, provenance, sha256_file(path), path)

    @classmethod
    def of(cls, path: Path, state: Mapping[str, torch.Tensor]) -> Adapter | None:
        """The adapter file at `path` if there is one and it holds these very tensors, with or without a prompter."""
        try:
            found = cls.open(path)
        except ResamError:
            return None
        kept, wanted = (
            {name: value for name, value in tensors.items() if not name.startswith(PrompterHead.prefix)}
            for tensors in (found.state, state)
        )
        if kept.keys() != wanted.keys():
            return None
        return found if all(torch.equal(kept[name], value.cpu()) for name, value in wanted.items()) else None


def write_adapter(path: Path, state: Mapping[str, torch.Tensor], provenance: Mapping[str, Any]) -> None:
    """Write an adapter file. `ResamError` where it cannot be written.

    It travels: of the base's path only the file's name goes with it.
    """
    options = provenance["options"]
    provenance = {**provenance, "options": {**options, "base": Path(options["base"]).name}}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    data = save(tensors, metadata={"resam": json.dumps(provenance, sort_keys=True)})
    write_bytes(path, data)


def write_base(path: Path, base: Base, record: Mapping[str, Any]) -> None:
    """Write a base as a checkpoint that `load_base` takes: safetensors, under the published names, with its
    architecture and `record` as JSON in the metadata under `resam`. `ResamError` where it cannot be written."""
    names = published_names(base.sam)
    tensors = {names[key]: value.detach().cpu().contiguous().clone() for key, value in base.sam.state_dict().items()}
    record = {"architecture": describe_architecture(base.architecture), **record}
    write_bytes(path, save(tensors, metadata={"resam": json.dumps(record, sort_keys=True)}))


def describe_base(base: Base) -> dict[str, Any]:
    """What an adapter's provenance says of its base."""
    return {"name": base.name, "sha256": base.sha256, "architecture": describe_architecture(base.architecture)}


def apply_adapter(base: Base, adapter: Adapter, merge: bool = True) -> Base:
    """The base with an adapter in it, in place; `merge`: as plain weights, as export wants them.

    Raises `ResamError` where the adapter was trained on another base.
    """
    made_for = adapter.provenance["base"]
    if made_for["sha256"] != base.sha256:
        name, digest = made_for["name"], made_for["sha256"][:12]
        raise ResamError(
            f"the adapter was trained on base {name!r} (sha256 {digest}...), not on {base.name!r} "
            f"({base.sha256[:12]}...); give that base with --base"
        )
    try:
        load_adapter(base.sam, adapter.state)
    except (ValueError, IndexError, RuntimeError, TypeError) as error:
        raise ResamError(f"the adapter does not fit base {base.name!r}: {error}") from None
    if merge:
        merge_adapter(base.sam)
    return base


def load_adapted(path: str | Path, base: str | Path | None = None) -> tuple[Base, Adapter]:
    """An adapter merged into its base. base: name or file; by default that of the run in whose folder the adapter lies,
    else what the adapter says, beside it or in the working folder."""
    adapter = Adapter.open(path)
    if base is None:
        config = adapter.path.with_name("config.toml")
        base = read_options(config).base if config.is_file() else adapter.provenance["options"]["base"] or "tiny"
        beside = adapter.path.with_name(Path(base).name)
        base = beside if beside.is_file() else base
    return apply_adapter(load_base(base), adapter), adapter


def save_checkpoint(folder: Path, epoch: int, state: Mapping[str, Any]) -> Path:
    """Write `epoch-NNN.pt` after `epoch` epochs, then remove all but the newest ones.

    `ResamError` where it cannot be written; then the older ones stay.
    """
    path = folder / f"epoch-{epoch:04d}.pt"
    data = io.BytesIO()
    torch.save(dict(state), data)
    write_bytes(path, data.getbuffer())
    for old in sorted(folder.glob("epoch-*.pt"))[:-KEPT]:
        old.unlink()
    return path


def latest_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint's contents, tensors on the CPU; None where there is none. `ResamError` if damaged."""
    found = sorted(folder.glob("epoch-*.pt"))
    if not found:
        return None
    damaged = f"{found[-1]}: damaged checkpoint; remove it to resume from an earlier one"
    try:
        state: Any = torch.load(found[-1], map_location="cpu", weights_only=True)
    except OSError as error:
        raise ResamError(system_error(error, found[-1])) from None
    except Exception:  # the unpickler answers damage with whatever it trips over, and advice to trust the file
        raise ResamError(damaged) from None
    try:
        whole: dict[str, Any] = CHECKPOINT(state)
    except Malformed:
        raise ResamError(damaged) from None
    return {**whole, "framing": state["framing"]}


def own_checkpoint(folder: Path, identity: Mapping[str, Any], parts: str) -> dict[str, Any] | None:
    """The newest checkpoint of the run in `folder`; None where there is none yet. `ResamError` for a damaged one, and
    for one of another identity. parts: of what that is made, in words.
    """
    saved = latest_checkpoint(folder / "checkpoints")
    if saved is not None and saved["identity"] != identity:
        raise ResamError(f"{folder}: its checkpoint was made with other {parts}; start a new run")
    return saved
