"""Bases as files: the weights that `resam` adapts, and what kind of SAM they are.

A base is a state dict of segment-anything's `Sam`. Its architecture is read off the shapes of its tensors, so the
official checkpoints, the shipped tiny base and any other SAM of the same classes load alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from segment_anything.modeling import Sam

from resam.model.sam import ARCHITECTURES, Architecture, build_sam
from resam_runtime.common.errors import ResamError, system_error
from resam_runtime.common.files import sha256_file

TINY_WEIGHTS = Path(__file__).parents[1] / "weights" / "tiny.safetensors"
OFFICIAL_FILES = ("sam_vit_b_01ec64.pth", "sam_vit_l_0b3195.pth", "sam_vit_h_4b8939.pth")
HEAD_CHANNELS = 32  # channels per head in SAM's mask decoder, of every size


@dataclass(frozen=True)
class Base:
    """A SAM, what it is, what to call it, and the SHA-256 of the file it came from (64 hex digits)."""

    sam: Sam
    architecture: Architecture
    name: str
    sha256: str

    @property
    def fit_within(self) -> int:
        """Longest side, in pixels, of a scene that becomes one tile: twice the tile for the official sizes."""
        size = self.architecture.image_size
        return 2 * size if size >= 1024 else size


def load_base(name_or_path: str | Path) -> Base:
    """Load "tiny", or a checkpoint file: .safetensors, or torch's format (.pth, .pt), read with `weights_only=True`.

    The name of the result is that of a known architecture ("tiny", "vit_b", ...), else the file's stem. Raises
    `ResamError` naming the file for anything that is not a whole SAM, with the keys that are missing or foreign.
    """
    path = TINY_WEIGHTS if str(name_or_path) == "tiny" else Path(name_or_path)
    if not path.is_file():
        known = f"expected 'tiny' or a checkpoint file ({', '.join(OFFICIAL_FILES)})"
        hint = "the shipped weights are absent; run python -m resam.pretrain" if path == TINY_WEIGHTS else known
        raise ResamError(f"{path}: no such base; {hint}")
    state = _read(path)
    try:
        architecture = architecture_of(state)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        missing = error.args[0] if isinstance(error, KeyError) else str(error)
        raise ResamError(f"{path}: not a checkpoint of SAM ({missing} is missing or mis-shaped)") from None
    name = next((known for known, value in ARCHITECTURES.items() if value == architecture), path.stem)
    sam = build_sam(architecture)
    _check_keys(path, sam, state)
    sam.load_state_dict(state)
    return Base(sam, architecture, name, sha256_file(path))


def random_base(architecture: Architecture, name: str = "random", seed: int = 0) -> Base:
    """A base with random weights, for tests and benchmarks. Its digest is that of the weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = build_sam(architecture)
    digest = hashlib.sha256()
    for value in sam.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    return Base(sam, architecture, name, digest.hexdigest())


def architecture_of(state: Mapping[str, torch.Tensor]) -> Architecture:
    """The numbers of a SAM from the shapes in its state dict. `KeyError` names a tensor that ought to be there."""
    encoder = "image_encoder."
    position = state[encoder + "pos_embed"]  # (1, G, G, dim)
    patch = state[encoder + "patch_embed.proj.weight"]  # (dim, 3, patch, patch)
    grid, dim, patch_size = int(position.shape[1]), int(position.shape[3]), int(patch.shape[-1])
    depth = 0
    while f"{encoder}blocks.{depth}.norm1.weight" in state:
        depth += 1
    if depth == 0:
        raise KeyError(encoder + "blocks.0.norm1.weight")
    relative = [state[f"{encoder}blocks.{block}.attn.rel_pos_h"] for block in range(depth)]  # (2 * side - 1, head dim)
    sides = [(len(table) + 1) // 2 for table in relative]
    global_blocks = tuple(block for block, side in enumerate(sides) if side == grid)
    windows = {side for side in sides if side != grid} or {grid}
    if len(windows) > 1:
        raise ValueError(f"one window size for all blocks (came {sorted(windows)})")
    decoder = "mask_decoder."
    channels = int(state[encoder + "neck.0.weight"].shape[0])
    return Architecture(
        image_size=grid * patch_size,
        patch_size=patch_size,
        encoder_dim=dim,
        encoder_depth=depth,
        encoder_heads=dim // int(relative[0].shape[1]),
        global_blocks=global_blocks,
        window_size=windows.pop(),
        embedding_dim=channels,
        decoder_heads=channels // HEAD_CHANNELS,
        decoder_mlp_dim=int(state[decoder + "transformer.layers.0.mlp.lin1.weight"].shape[0]),
        multimask_outputs=int(state[decoder + "mask_tokens.weight"].shape[0]) - 1,
        iou_hidden_dim=int(state[decoder + "iou_prediction_head.layers.0.weight"].shape[0]),
    )


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ResamError(f"{path}: not a whole safetensors file ({error})") from None
    except OSError as error:
        raise ResamError(system_error(error, path)) from None
    except Exception as error:  # the unpickler answers damage with whatever it trips over, and pages of advice
        if "Unsupported global" in str(error):
            raise ResamError(
                f"{path}: not a checkpoint that can be read safely: it holds other objects than tensors; "
                "save its state dict alone"
            ) from None
        raise ResamError(
            f"{path}: not a checkpoint that torch can read; "
            f"give one of SAM, such as {OFFICIAL_FILES[0]}, or download it again"
        ) from None
    if isinstance(state, Mapping) and isinstance(state.get("sam"), Mapping):  # an unfinished run of resam.pretrain
        state = state["sam"]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ResamError(f"{path}: expected a state dict of tensors, got {type(state).__name__} of other things")
    return dict(state)


def _check_keys(path: Path, sam: Sam, state: Mapping[str, torch.Tensor]) -> None:
    expected = sam.state_dict()
    missing, foreign = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    shaped = [key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape]
    found = [("missing", missing), ("foreign", foreign), ("mis-shaped", sorted(shaped))]
    if any(keys for _, keys in found):
        parts = (
            f"{len(keys)} {what}: {', '.join(keys[:3])}{', ...' * (len(keys) > 3)}" for what, keys in found if keys
        )
        raise ResamError(f"{path}: not a SAM of segment-anything ({'; '.join(parts)})")
