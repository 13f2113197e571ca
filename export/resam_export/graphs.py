"""The graphs of an engine file: module, example inputs and dynamic axes of each, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from segment_anything.modeling import Sam
from torch import nn

from resam.model.decoder import PromptDecoder
from resam.model.encoder import ImageEncoder
from resam.model.near_edges import EdgeDecoder, EdgeLoop
from resam.model.prompter import prompter_of
from resam.model.refine_requery import RefineRequery, Requery, refine_logit
from resam_runtime.engine.manifest import TensorSpec

MOST = 1 << 20  # of a dynamic axis: products of sizes stay below what 64 bits hold
DYNAMIC = {
    "B": 2,
    "N": 3,
    "P": 2,
}  # dynamic axes, and the size of each in the example inputs (1 would be taken as fixed)


@dataclass(frozen=True)
class Graph:
    """A network of the engine file: what is traced, what it must equal, and its tensors.

    edges: masks equal the reference's near their edges alone, so that they are compared as masks, not as numbers.
    sized: its prompts may say sizes.
    """

    name: str
    module: nn.Module
    reference: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    edges: bool = False
    sized: bool = False

    def example(self) -> tuple[torch.Tensor, ...]:
        """Inputs to trace with. Their values do not matter: the modules have no branches."""
        return tuple(
            torch.zeros([DYNAMIC.get(size, 1) if isinstance(size, str) else size for size in spec.shape],
                        dtype=getattr(torch, spec.dtype))
            for spec in self.inputs
        )  # fmt: skip

    def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
        """`torch.export`'s description of the dynamic axes, one entry an input."""
        return tuple(
            {axis: torch.export.Dim(size, max=MOST) for axis, size in enumerate(spec.shape) if isinstance(size, str)}
            for spec in self.inputs
        )


def build_graphs(
    sam: Sam,
    tau: float = 0.3,
    requery: Requery = "box+points",
    rounds: int = 1,
    *,
    fold: bool = True,
    sized: bool = False,
    edges: bool = False,
) -> Mapping[str, Graph]:
    """`encoder`, `decoder`, `loop` and, where it has one, `prompter` of a SAM (LoRA merged), as the engine file's
    contract has them. fold: see `EncoderFamily.graph`. sized: see `RefineRequery`. edges: masks in full near their
    edges alone (`resam.model.near_edges`).

    The SAM is put in evaluation mode, and its attention modules are replaced by their folded form.
    """
    sam.eval()
    encoder, decoder = ImageEncoder(sam).eval(), PromptDecoder(sam).eval()
    loop = RefineRequery(decoder, tau, requery, rounds, sized).eval()
    traced, traced_loop = decoder, loop
    if edges:
        traced = EdgeDecoder(sam, refine_logit(tau)).eval()
        traced_loop = EdgeLoop(traced, tau, requery, rounds, sized).eval()
    size = decoder.image_size
    channels, (grid, _) = sam.prompt_encoder.embed_dim, sam.prompt_encoder.image_embedding_size
    mask = 4 * grid

    prompts = (
        TensorSpec("embedding", "float32", (1, channels, grid, grid)),
        TensorSpec("point_coords", "float32", ("N", "P", 2)),
        TensorSpec("point_labels", "int32", ("N", "P")),
    )
    masks = (TensorSpec("masks", "float32", ("N", mask, mask)), TensorSpec("scores", "float32", ("N",)))
    coarse = (TensorSpec("coarse_masks", "float32", ("N", mask, mask)), TensorSpec("coarse_scores", "float32", ("N",)))
    boxes = TensorSpec("boxes", "float32", ("N", 4))
    graphs = [
        Graph(
            "encoder",
            encoder.graph(fold).eval(),
            encoder,
            (TensorSpec("image", "uint8", ("B", size, size, 3)),),
            (TensorSpec("embedding", "float32", ("B", channels, grid, grid)),),
        ),
        Graph("decoder", traced, decoder, prompts, masks, edges),
        Graph("loop", traced_loop, loop, prompts, (*masks, boxes, *coarse), edges, sized),
    ]
    head = prompter_of(sam)
    if head is not None:
        classes, side = head.classes, 2 * grid
        maps = (
            TensorSpec("heat", "float32", ("B", classes, side, side)),
            TensorSpec("boxes", "float32", ("B", 4, side, side)),
        )
        embedding = TensorSpec("embedding", "float32", ("B", channels, grid, grid))
        graphs.append(Graph("prompter", head.eval(), head, (embedding,), maps))
    return {graph.name: graph for graph in graphs}
