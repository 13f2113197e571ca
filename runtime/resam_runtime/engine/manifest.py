"""The manifest: what an engine file says about itself, as frozen dataclasses and as plain JSON, checked both ways."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from resam_runtime.common.errors import ResamError
from resam_runtime.engine.manifest_values import (
    Malformed,
    is_whole,
    take_choice,
    take_digest,
    take_flag,
    take_limit,
    take_object,
    take_optional_object,
    take_text,
    take_whole,
)
from resam_runtime.tiles.tiling import MAX_SCALE, MIN_SCALE, Framing

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
GRAPHS = ("encoder", "decoder", "loop")
BACKENDS = ("onnx", "tensorrt")
Precision = Literal["fp32", "fp16", "int8", "int8-fp32"]  # int8: what is not INT8 is fp16, or fp32 where it says so
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
REQUERIES = ("box", "box+points")
DTYPES = ("float32", "float16", "uint8", "int8", "int32", "int64", "bool")

# What every engine's graphs are called with; more tensors may exist, these must.
_PROMPT_INPUTS = ("embedding", "point_coords", "point_labels")
_GRAPH_INPUTS = {"encoder": ("image",), "decoder": _PROMPT_INPUTS, "loop": _PROMPT_INPUTS}
_GRAPH_OUTPUTS = {
    "encoder": ("embedding",),
    "decoder": ("masks", "scores"),
    "loop": ("masks", "scores", "boxes", "coarse_masks", "coarse_scores"),
}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph: name, numpy dtype name, and shape (a string is a dynamic dimension)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, data: Any, where: str) -> TensorSpec:
        fields = take_object(data, where)
        name = take_text(fields, "name", where)
        dtype = take_choice(fields, "dtype", where, DTYPES)
        shape = fields.get("shape")
        if not isinstance(shape, list) or len(shape) > 8:
            raise Malformed(f"{where}.shape: expected a list of at most 8 dimensions")
        for size in shape:
            good = (isinstance(size, str) and 0 < len(size) <= 64) or (is_whole(size) and 0 < size < 1 << 31)
            if not good:
                raise Malformed(f"{where}.shape: expected positive integers or names, got {size!r:.40}")
        return cls(name, dtype, tuple(shape))


@dataclass(frozen=True)
class GraphSpec:
    """One graph of an engine file: its entry's name, the SHA-256 of its bytes, inputs and outputs."""

    file: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "sha256": self.sha256,
            "inputs": [tensor.to_json() for tensor in self.inputs],
            "outputs": [tensor.to_json() for tensor in self.outputs],
        }

    @classmethod
    def from_json(cls, data: Any, name: str) -> GraphSpec:
        where = f"graphs.{name}"
        fields = take_object(data, where)
        file = take_text(fields, "file", where)
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", file) or file == MANIFEST_NAME:
            raise Malformed(f"{where}.file: expected a plain file name, got {file!r:.80}")
        digest = take_digest(fields, "sha256", where)
        tensors: dict[str, tuple[TensorSpec, ...]] = {}
        for side, needed in (("inputs", _GRAPH_INPUTS[name]), ("outputs", _GRAPH_OUTPUTS[name])):
            listed = fields.get(side)
            if not isinstance(listed, list) or len(listed) > 64:
                raise Malformed(f"{where}.{side}: expected a list of tensors")
            specs = tuple(TensorSpec.from_json(item, f"{where}.{side}[{i}]") for i, item in enumerate(listed))
            names = [spec.name for spec in specs]
            missing = [tensor for tensor in needed if tensor not in names]
            if missing:
                raise Malformed(f"{where}.{side}: lacks {', '.join(missing)} (has {', '.join(names) or 'none'})")
            if len(set(names)) != len(names):
                raise Malformed(f"{where}.{side}: a name appears twice")
            tensors[side] = specs
        return cls(file, digest, tensors["inputs"], tensors["outputs"])


@dataclass(frozen=True)
class TensorRTTarget:
    """What a TensorRT plan was built for: version "10.3.0", compute capability "8.7", the device's name."""

    version: str
    compute_capability: str
    device_name: str
    version_compatible: bool = False
    hardware_compatible: bool = False

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> TensorRTTarget:
        fields = take_object(data, "tensorrt")
        version = take_text(fields, "version", "tensorrt")
        if not re.fullmatch(r"\d{1,4}(\.\d{1,6}){1,4}", version, re.ASCII):
            raise Malformed(f"tensorrt.version: expected a version such as 10.3.0, got {version!r:.40}")
        capability = take_text(fields, "compute_capability", "tensorrt")
        if not re.fullmatch(r"\d{1,3}\.\d{1,2}", capability, re.ASCII):
            raise Malformed(f"tensorrt.compute_capability: expected one such as 8.7, got {capability!r:.40}")
        return cls(
            version,
            capability,
            take_text(fields, "device_name", "tensorrt"),
            take_flag(fields, "version_compatible", "tensorrt"),
            take_flag(fields, "hardware_compatible", "tensorrt"),
        )


@dataclass(frozen=True)
class Manifest:
    """What an engine file says about itself. Sizes in pixels of the tile unless said otherwise.

    image_size S, patch_size, mask_size M = 4 * S / patch_size, embedding_dim C; fit_within: a scene whose
    longer side is at most this becomes one tile; scale: tile pixels for each pixel of a larger scene;
    max_points: most instances in one call (None: no limit); max_points_per_instance: most points of one instance;
    max_batch: most tiles in one encoder call; refine_threshold tau in (0, 1); requery "box" or "box+points"; rounds
    of Refine and Requery.
    `base`, `adapter`, `training` and `verification` are provenance: plain JSON, kept as it came.
    """

    backend: str
    precision: str
    image_size: int
    patch_size: int
    mask_size: int
    embedding_dim: int
    fit_within: int
    scale: float
    max_points: int | None
    max_points_per_instance: int | None
    max_batch: int | None
    refine_threshold: float
    requery: str
    rounds: int
    graphs: Mapping[str, GraphSpec]
    base: Mapping[str, Any]
    adapter: Mapping[str, Any] | None
    training: Mapping[str, Any] | None
    verification: Mapping[str, Any]
    created: str
    resam_version: str
    tensorrt: TensorRTTarget | None = None

    @property
    def framing(self) -> Framing:
        """How scenes are brought to the tile."""
        return Framing(self.fit_within, self.scale)

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON data, in the order in which a person wants to read it."""
        data: dict[str, Any] = {"format": FORMAT_VERSION}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "graphs":
                value = {name: spec.to_json() for name, spec in value.items()}
            elif field.name == "tensorrt":
                if value is None:
                    continue
                value = value.to_json()
            data[field.name] = value
        return data

    @classmethod
    def from_json(cls, data: Any, source: str = MANIFEST_NAME) -> Manifest:
        """Check plain JSON data and make a manifest of it; `ResamError` (naming `source`) says what is wrong."""
        try:
            return cls._from_json(data)
        except Malformed as error:
            raise ResamError(f"{source}: bad manifest: {error}; export the engine again") from None

    @classmethod
    def _from_json(cls, data: Any) -> Manifest:
        fields = take_object(data, "manifest")
        backend = take_choice(fields, "backend", "manifest", BACKENDS)
        image_size = take_whole(fields, "image_size", 16, 16384)
        patch_size = take_whole(fields, "patch_size", 1, 256)
        mask_size = take_whole(fields, "mask_size", 4, 16384)
        if image_size % patch_size or mask_size != 4 * (image_size // patch_size):
            raise Malformed(f"mask_size {mask_size} is not 4 * image_size {image_size} / patch_size {patch_size}")
        threshold = fields.get("refine_threshold")
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold < 1:
            raise Malformed(f"refine_threshold: expected a number between 0 and 1, got {threshold!r:.40}")
        graphs = take_object(fields.get("graphs"), "graphs")
        missing = [name for name in GRAPHS if name not in graphs]
        if missing:
            raise Malformed(f"graphs: lacks {', '.join(missing)} (expected {', '.join(GRAPHS)})")
        unknown = [name for name in graphs if name not in GRAPHS]
        if unknown:
            raise Malformed(f"graphs: unknown graph {unknown[0]!r:.40} (expected {', '.join(GRAPHS)})")
        specs = {name: GraphSpec.from_json(graphs[name], name) for name in GRAPHS}
        if len({spec.file for spec in specs.values()}) != len(specs):
            raise Malformed("graphs: two graphs name the same file")
        base = take_object(fields.get("base"), "base")
        take_text(base, "name", "base")
        target = fields.get("tensorrt")
        if (target is None) == (backend == "tensorrt"):
            raise Malformed("tensorrt: expected for the tensorrt backend and for no other")
        return cls(
            backend=backend,
            precision=take_choice(fields, "precision", "manifest", PRECISIONS),
            image_size=image_size,
            patch_size=patch_size,
            mask_size=mask_size,
            embedding_dim=take_whole(fields, "embedding_dim", 1, 65536),
            fit_within=take_whole(fields, "fit_within", 1, 1 << 20),
            scale=_scale(fields),
            max_points=take_limit(fields, "max_points"),
            max_points_per_instance=take_limit(fields, "max_points_per_instance"),
            max_batch=take_limit(fields, "max_batch"),
            refine_threshold=float(threshold),
            requery=take_choice(fields, "requery", "manifest", REQUERIES),
            rounds=take_whole(fields, "rounds", 1, 1000),
            graphs=specs,
            base=base,
            adapter=take_optional_object(fields, "adapter"),
            training=take_optional_object(fields, "training"),
            verification=take_object(fields.get("verification"), "verification"),
            created=take_text(fields, "created", "manifest"),
            resam_version=take_text(fields, "resam_version", "manifest"),
            tensorrt=None if target is None else TensorRTTarget.from_json(target),
        )


def _scale(fields: Mapping[str, Any]) -> float:
    value = fields.get("scale", 1.0)  # absent in files of resam 0.1's first days
    if isinstance(value, bool) or not isinstance(value, int | float) or not MIN_SCALE <= value <= MAX_SCALE:
        raise Malformed(f"scale: expected a number from {MIN_SCALE} to {MAX_SCALE}, got {value!r:.40}")
    return float(value)
