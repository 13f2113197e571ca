"""The manifest: what an engine file says about itself, as frozen dataclasses and as plain JSON, checked both ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from resam_runtime.common.checked import Malformed, choice, kind, list_of, number, shown, take, text, whole
from resam_runtime.common.errors import ResamError
from resam_runtime.engine.class_sizes import ClassSizes
from resam_runtime.engine.precisions import PRECISIONS
from resam_runtime.engine.prompter_spec import PrompterSpec
from resam_runtime.tiles.tiling import MAX_SCALE, MIN_SCALE, Framing

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
DIGEST_KEY = "resam.digest"
GRAPHS = ("encoder", "decoder", "loop")
OPTIONAL_GRAPHS = ("prompter",)
REQUERIES = ("none", "box", "box+points")
DTYPES = ("float32", "float16", "uint8", "int8", "int32", "int64", "bool")

# What every engine's graphs are called with; more tensors may exist, these must.
_PROMPT_INPUTS = ("embedding", "point_coords", "point_labels")
_GRAPH_INPUTS = {"encoder": ("image",), "decoder": _PROMPT_INPUTS, "loop": _PROMPT_INPUTS, "prompter": ("embedding",)}
_GRAPH_OUTPUTS = {
    "encoder": ("embedding",),
    "decoder": ("masks", "scores"),
    "loop": ("masks", "scores", "boxes", "coarse_masks", "coarse_scores"),
    "prompter": ("heat", "boxes"),
}


Name = Annotated[str, text()]
Digest = Annotated[str, text("[0-9a-f]{64}", "the 64 hex digits of a SHA-256")]
Limit = Annotated[int, whole(1, 1 << 20)] | None  # None: none
Shape = tuple[int | str, ...]
_DIMENSIONS = list_of(kind(Annotated[int, whole(1, (1 << 31) - 1)] | Annotated[str, text(".{1,64}")]), most=8)


def _take_shape(value: Any) -> Shape:
    return tuple(_DIMENSIONS(value))


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph: name, numpy dtype name, and shape (a string is a dynamic dimension)."""

    name: Name
    dtype: Annotated[str, choice(*DTYPES)]
    shape: Annotated[Shape, _take_shape]


_TENSORS = list_of(kind(TensorSpec), most=64)


def _take_tensors(value: Any) -> tuple[TensorSpec, ...]:
    specs = tuple(_TENSORS(value))
    if len({spec.name for spec in specs}) != len(specs):
        raise Malformed("a name appears twice")
    return specs


@dataclass(frozen=True)
class GraphSpec:
    """One graph of an engine file: its entry's name, the SHA-256 of its bytes, inputs and outputs."""

    file: Annotated[str, text(rf"(?!{MANIFEST_NAME}$)[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}", "a plain file name")]
    sha256: Digest
    inputs: Annotated[tuple[TensorSpec, ...], _take_tensors]
    outputs: Annotated[tuple[TensorSpec, ...], _take_tensors]


@dataclass(frozen=True)
class TensorRTTarget:
    """What a TensorRT plan was built for: version "10.3.0", compute capability "8.7", the device's name."""

    version: Annotated[str, text(r"\d{1,4}(\.\d{1,6}){1,4}", "10.3.0")]
    compute_capability: Annotated[str, text(r"\d{1,3}\.\d{1,2}", "8.7")]
    device_name: Name
    version_compatible: bool = False
    hardware_compatible: bool = False


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an engine file says about itself. Sizes in pixels of the tile unless said otherwise.

    image_size S, patch_size, mask_size M = 4 * S / patch_size, embedding_dim C; fit_within: a scene whose
    longer side is at most this becomes one tile; scale: tile pixels for each pixel of a larger scene;
    max_points: most instances in one call (None: no limit); max_points_per_instance: most points of one instance;
    max_batch: most tiles in one encoder call; refine_threshold tau in (0, 1); requery "box" or "box+points"; rounds
    of Refine and Requery. digest: what all graphs of one export carry, so that no graph of another stands in for one
    (`DIGEST_KEY` in an ONNX graph's metadata; None: they carry none). prompter: what the graph of that name finds, None
    where there is none. sizes: of the objects of classes, for a loop that chooses masks by size; None: it does not.
    `base`, `adapter`, `training` and `verification` are provenance: plain JSON, kept as it came.
    """

    backend: Name
    precision: Annotated[str, choice(*PRECISIONS)]
    image_size: Annotated[int, whole(16, 16384)]
    patch_size: Annotated[int, whole(1, 256)]
    mask_size: Annotated[int, whole(4, 16384)]
    embedding_dim: Annotated[int, whole(1, 65536)]
    fit_within: Annotated[int, whole(1, 1 << 20)]
    scale: Annotated[float, number(MIN_SCALE, MAX_SCALE)]
    max_points: Limit = None
    max_points_per_instance: Limit = None
    max_batch: Limit = None
    refine_threshold: Annotated[float, number(0, 1, ends=False)]
    requery: Annotated[str, choice(*REQUERIES)]
    rounds: Annotated[int, whole(1, 1000)]
    digest: Digest | None = None
    graphs: Mapping[str, GraphSpec]
    base: Mapping[str, Any]
    adapter: Mapping[str, Any] | None = None
    training: Mapping[str, Any] | None = None
    verification: Mapping[str, Any]
    created: Name
    resam_version: Name
    tensorrt: TensorRTTarget | None = None
    prompter: PrompterSpec | None = None
    sizes: ClassSizes | None = None

    @property
    def framing(self) -> Framing:
        """How scenes are brought to the tile."""
        return Framing(self.fit_within, self.scale)

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON data, in the order in which a person wants to read it."""
        data = {"format": FORMAT_VERSION, **dataclasses.asdict(self)}
        for name in ("tensorrt", "prompter", "sizes"):
            if data[name] is None:
                del data[name]
        return data

    @classmethod
    def from_json(cls, data: Any, source: str = MANIFEST_NAME) -> Manifest:
        """Check plain JSON data and make a manifest of it; `ResamError` (naming `source`) says what is wrong."""
        try:
            manifest = take(data, cls)
            manifest._check()
        except Malformed as error:
            raise ResamError(f"{source}: bad manifest: {error}; export the engine again") from None
        return manifest

    def _check(self) -> None:
        """What no field shows alone. Raises `Malformed`."""
        if self.image_size % self.patch_size or self.mask_size != 4 * (self.image_size // self.patch_size):
            raise Malformed(f"{self.mask_size} is not 4 * image_size / patch_size", "mask_size")
        if set(self.graphs).difference(OPTIONAL_GRAPHS) != set(GRAPHS):
            raise Malformed(f"expected {', '.join(GRAPHS)}, got {shown(', '.join(self.graphs))}", "graphs")
        if (self.prompter is None) == ("prompter" in self.graphs):
            raise Malformed("expected where there is a graph of that name, and nowhere else", "prompter")
        for name, spec in self.graphs.items():
            for side, tensors, needed in (
                ("inputs", spec.inputs, _GRAPH_INPUTS[name]),
                ("outputs", spec.outputs, _GRAPH_OUTPUTS[name]),
            ):
                shapes = {tensor.name: tensor.shape for tensor in tensors}
                if missing := [tensor for tensor in needed if tensor not in shapes]:
                    raise Malformed(f"lacks {', '.join(missing)}", f"graphs.{name}.{side}")
                for tensor in needed:
                    wanted = self._shape(name, tensor)
                    if not _fits(shapes[tensor], wanted):
                        problem = f"expected the shape {_written(wanted)}, got {_written(shapes[tensor])}"
                        raise Malformed(problem, f"graphs.{name}.{side}.{tensor}")
        if len({spec.file for spec in self.graphs.values()}) != len(self.graphs):
            raise Malformed("two graphs name the same file", "graphs")
        take(self.base.get("name"), text(), "base.name")

    def _shape(self, graph: str, tensor: str) -> Shape:
        """The shape of one of a graph's tensors, as the sizes above make it."""
        s, m, c, g = self.image_size, self.mask_size, self.embedding_dim, self.mask_size // 4
        if graph == "prompter" and tensor != "embedding":
            maps = 4 if self.prompter is None or tensor == "boxes" else len(self.prompter.classes)
            return ("B", maps, 2 * g, 2 * g)
        shapes: dict[str, Shape] = {
            "image": ("B", s, s, 3),
            "embedding": ("B", c, g, g),
            "point_coords": ("N", "P", 2),
            "point_labels": ("N", "P"),
            "masks": ("N", m, m),
            "scores": ("N",),
            "boxes": ("N", 4),
            "coarse_masks": ("N", m, m),
            "coarse_scores": ("N",),
        }
        return shapes[tensor]


def _fits(shape: Shape, wanted: Shape) -> bool:
    """Whether a shape has the sizes that are wanted; a name stands for any."""
    return len(shape) == len(wanted) and all(isinstance(w, str) or s == w for s, w in zip(shape, wanted))


def _written(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))})"
