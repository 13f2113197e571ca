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
from resam.model.bases import Base, load_base
from resam.model.parts import PrompterHead, load_adapter, merge_adapter
from resam.training.outputs import write_bytes
from resam_runtime.common.errors import ResamError, system_error
from resam_runtime.common.files import sha256_file

KEPT = 2  # checkpoints kept in a run; older ones are removed once a newer one is whole


@dataclass(frozen=True)
class Adapter:
    """Its tensors, where they come from, and the SHA-256 of their file."""

    state: dict[str, torch.Tensor]
    provenance: dict[str, Any]
    sha256: str

    @classmethod
    def open(cls, path: str | Path) -> Adapter:
        """Read an adapter file (or the one in a run's folder). `ResamError` for anything else."""
        path = Path(path)
        path = path / "adapter.safetensors" if path.is_dir() else path
        if not path.is_file():
            raise ResamError(f"{path}: no such adapter; resam-train writes one")
        try:
            with safe_open(path, framework="pt") as file:
                provenance = json.loads((file.metadata() or {}).get("resam", "null"))
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, ValueError) as error:
            raise ResamError(f"{path}: not an adapter of resam-train ({error})") from None
        said = provenance if isinstance(provenance, dict) else {}
        if not all(isinstance(said.get(name), dict) for name in ("base", "options")):
            raise ResamError(f"{path}: not an adapter of resam-train (its metadata say not how it was made)")
        return cls(state, provenance, sha256_file(path))

    @classmethod
    def of(cls, path: Path, state: Mapping[str, torch.Tensor]) -> Adapter | None:
        """The adapter file at `path` if there is one and it holds these very tensors, with or without a prompter."""
        try:
            found = cls.open(path)
        except ResamError:
            return None
        if {name for name in found.state if not name.startswith(PrompterHead.prefix)} != state.keys():
            return None
        return found if all(torch.equal(found.state[name], value.cpu()) for name, value in state.items()) else None


def write_adapter(path: Path, state: Mapping[str, torch.Tensor], provenance: Mapping[str, Any]) -> None:
    """Write an adapter file. `ResamError` where it cannot be written."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    data = save(tensors, metadata={"resam": json.dumps(provenance, sort_keys=True)})
    write_bytes(path, data)


def describe_base(base: Base) -> dict[str, Any]:
    """What an adapter's provenance says of its base."""
    return {"name": base.name, "sha256": base.sha256, "architecture": describe_architecture(base.architecture)}


def apply_adapter(base: Base, adapter: Adapter, merge: bool = True) -> Base:
    """The base with an adapter in it, in place; `merge`: as plain weights, as export wants them.

    Raises `ResamError` where the adapter was trained on another base.
    """
    made_for = adapter.provenance.get("base", {})
    if made_for.get("sha256") != base.sha256:
        name, digest = made_for.get("name"), str(made_for.get("sha256"))[:12]
        raise ResamError(
            f"the adapter was trained on base {name!r} (sha256 {digest}...), not on {base.name!r} "
            f"({base.sha256[:12]}...); give that base with --base"
        )
    try:
        load_adapter(base.sam, adapter.state)
    except ValueError as error:
        raise ResamError(f"the adapter does not fit base {base.name!r}: {error}") from None
    if merge:
        merge_adapter(base.sam)
    return base


def load_adapted(path: str | Path, base: str | Path | None = None) -> tuple[Base, Adapter]:
    """An adapter merged into its base. base: name or file; by default what the adapter's provenance names."""
    adapter = Adapter.open(path)
    source = base if base is not None else adapter.provenance.get("options", {}).get("base", "tiny")
    return apply_adapter(load_base(source), adapter), adapter


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
    try:
        state: dict[str, Any] = torch.load(found[-1], map_location="cpu", weights_only=True)
    except OSError as error:
        raise ResamError(system_error(error, found[-1])) from None
    except Exception:  # the unpickler answers damage with whatever it trips over, and advice to trust the file
        raise ResamError(f"{found[-1]}: damaged checkpoint; remove it to go on from an earlier one") from None
    return state
