"""Bases as files: the weights that `resam` adapts, and what kind of SAM they are.

A base is a state dict of a SAM. Its encoder's family is recognised by its tensors, and its architecture read off their
shapes, so the official checkpoints, the shipped tiny base and any other SAM of the same families load alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from segment_anything.modeling import Sam
from torch import nn

from resam.encoders import ENCODERS, Architecture, EncoderFamily, family_of
from resam.encoders.family import PREFIX
from resam.model.sam import build_sam
from resam_runtime.common.errors import ResamError, one_line, system_error
from resam_runtime.common.files import sha256_file

TINY_WEIGHTS = Path(__file__).parents[1] / "weights" / "tiny.safetensors"


@dataclass(frozen=True)
class Base:
    """A SAM, what it is, what to call it, and the SHA-256 of the file it came from (64 hex digits)."""

    sam: Sam
    architecture: Architecture
    name: str
    sha256: str

    @property
    def fit_within(self) -> int:
        """Longest side, in pixels, of a scene that becomes one tile, unless a run or an engine says otherwise."""
        return self.architecture.fit_within


def load_base(name_or_path: str | Path) -> Base:
    """Load "tiny", or a checkpoint file: .safetensors, or torch's format (.pth, .pt), read with `weights_only=True`.

    The name of the result is that of a known architecture ("tiny", "vit_b", ...), else the file's stem. Raises
    `ResamError` naming the file for anything that is not a whole SAM, with the keys that are missing or foreign.
    """
    path = TINY_WEIGHTS if str(name_or_path) == "tiny" else Path(name_or_path)
    if not path.is_file():
        known = f"expected 'tiny' or a checkpoint file ({', '.join(official_files())})"
        hint = "the shipped weights are absent; run python -m resam.pretrain" if path == TINY_WEIGHTS else known
        raise ResamError(f"{path}: no such base; {hint}")
    state, record = _read(path)
    family = _recognised(path, state)
    try:
        architecture = family.architecture(state, _image_size(record))
        _check_numbers(architecture)
        with torch.device("meta"):  # what the shapes of a few tensors promise may not fit into memory
            planned = build_sam(architecture)
    except (KeyError, IndexError, ValueError, ZeroDivisionError, AssertionError, RuntimeError) as error:
        missing = error.args[0] if isinstance(error, KeyError) else one_line(error)
        raise ResamError(f"{path}: not a checkpoint of SAM ({missing} is missing or mis-shaped)") from None
    name = next((known for known, value in family.known.items() if value == architecture), path.stem)
    names = published_names(planned)
    _check_keys(path, {names[key]: value for key, value in planned.state_dict().items()}, state, family.ignored)
    sam = build_sam(architecture)
    sam.load_state_dict({key: state[published] for key, published in names.items()})
    return Base(sam, architecture, name, sha256_file(path))


def published_names(sam: Sam) -> dict[str, str]:
    """The name that each tensor of a SAM's state dict has in checkpoints, by its name here. LoRA must be merged."""
    family = family_of(sam.image_encoder)
    keys = sam.state_dict().keys()
    return {key: PREFIX + family.published(key[len(PREFIX) :]) if key.startswith(PREFIX) else key for key in keys}


def official_files() -> tuple[str, ...]:
    """Names under which checkpoints that load are published."""
    return tuple(file for family in ENCODERS.values() for file in family.files)


def random_base(architecture: Architecture, name: str = "random", seed: int = 0) -> Base:
    """A base with random weights, for tests and benchmarks. Its digest is that of the weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = build_sam(architecture)
        for part in sam.modules():
            if isinstance(part, nn.BatchNorm2d):  # fresh, it would be the identity, and dropped from graphs
                for values, middle in ((part.running_mean, 0.0), (part.running_var, 1.0), (part.bias, 0.0)):
                    nn.init.uniform_(cast(torch.Tensor, values), middle - 0.5, middle + 0.5)
    digest = hashlib.sha256()
    for value in sam.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    return Base(sam, architecture, name, digest.hexdigest())


def _recognised(path: Path, state: Mapping[str, torch.Tensor]) -> EncoderFamily:
    for family in ENCODERS.values():
        if family.recognises(state):
            return family
    raise ResamError(
        f"{path}: not a checkpoint of SAM (holds no image encoder of a known kind: {', '.join(ENCODERS)}); "
        f"give one such as {', '.join(official_files())}"
    )


def _read(path: Path) -> tuple[dict[str, torch.Tensor], Any]:
    """The state dict of a checkpoint, and the record in it of how resam made it, if there is one."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                record = json.loads((file.metadata() or {}).get("resam", "null"))
            return load_file(path), record
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ResamError(f"{path}: not a whole safetensors file ({error})") from None
    except OSError as error:
        raise ResamError(system_error(error, path)) from None
    except Exception as error:  # the unpickler answers damage with whatever it trips over, and pages of advice
        if "Unsupported global" in str(error):
            raise ResamError(
                f"{path}: not a checkpoint that can be read safely: it contains objects other than tensors; "
                "save its state dict alone"
            ) from None
        raise ResamError(
            f"{path}: not a checkpoint that torch can read; "
            f"give one of SAM, such as {official_files()[0]}, or download it again"
        ) from None
    for wrapper in ("sam", "state_dict"):  # an unfinished run of resam.pretrain; a habit of published checkpoints
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise ResamError(f"{path}: expected a state dict of tensors, got {type(state).__name__} of other things")
    return dict(state), None


def _check_numbers(architecture: Architecture) -> None:
    """`ValueError` for sizes that no SAM has: those of an embedding for less than one head, or of no pixels."""
    for name, value in asdict(architecture).items():
        least = 0 if name == "multimask_outputs" else 1
        for number in value if isinstance(value, list | tuple) else [value]:
            if (
                isinstance(number, int)
                and not isinstance(number, bool)
                and not ((0 if isinstance(value, list | tuple) else least) <= number <= 1 << 16)
            ):
                raise ValueError(f"{name} of {number}")
    if not 16 <= architecture.image_size <= 16384 or architecture.image_size % architecture.stride:
        raise ValueError(f"image_size of {architecture.image_size}")
    if architecture.embedding_dim % architecture.decoder_heads:
        raise ValueError(f"embedding_dim of {architecture.embedding_dim}")


def _image_size(record: Any) -> int | None:
    """The side of the tile that a record says, for encoders whose shapes do not tell it."""
    architecture = record.get("architecture") if isinstance(record, dict) else None
    size = architecture.get("image_size") if isinstance(architecture, dict) else None
    return size if isinstance(size, int) and 16 <= size <= 16384 else None


def _check_keys(
    path: Path, expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], ignored: frozenset[str]
) -> None:
    missing, foreign = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys() - ignored)
    shaped = [key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape]
    found = [("missing", missing), ("foreign", foreign), ("mis-shaped", sorted(shaped))]
    if any(keys for _, keys in found):
        parts = (
            f"{len(keys)} {what}: {', '.join(keys[:3])}{', ...' * (len(keys) > 3)}" for what, keys in found if keys
        )
        raise ResamError(f"{path}: not a whole SAM ({'; '.join(parts)})")
