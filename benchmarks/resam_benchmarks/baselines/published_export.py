"""SAM's ONNX export as its package publishes it, for the baseline `onnx-per-prompt`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from resam_benchmarks.baselines.weights import Weights

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from segment_anything.utils.onnx import SamOnnxModel


ENCODER, DECODER = "encoder.onnx", "decoder.onnx"


class PublishedExporter:
    """Held by the worker that exports; the process, and the torch in it, is gone before anything is measured."""


def export_graphs(held: PublishedExporter, weights: Weights, folder: str) -> int:
    """Write both graphs to `folder`; returns the side of the tile in px. Called in a worker."""
    import torch

    sam = weights.load().sam
    size, grid = int(sam.image_encoder.img_size), int(sam.prompt_encoder.image_embedding_size[0])
    prompts = {
        "image_embeddings": torch.randn(1, int(sam.prompt_encoder.embed_dim), grid, grid),
        "point_coords": torch.randint(0, size, (1, 5, 2)).float(),
        "point_labels": torch.randint(0, 4, (1, 5)).float(),
        "mask_input": torch.randn(1, 1, 4 * grid, 4 * grid),
        "has_mask_input": torch.tensor([1.0]),
        "orig_im_size": torch.tensor([size, size], dtype=torch.float32),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's remarks on the package's code
        torch.onnx.export(
            _decoder(sam),
            tuple(prompts.values()),
            str(Path(folder) / DECODER),
            input_names=list(prompts),
            output_names=["masks", "iou_predictions", "low_res_masks"],
            dynamic_axes={"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}},
            opset_version=17,
            dynamo=False,
        )
        torch.onnx.export(
            sam.image_encoder,
            (torch.randn(1, 3, size, size),),
            str(Path(folder) / ENCODER),
            input_names=["image"],
            output_names=["image_embeddings"],
            opset_version=17,
            dynamo=False,
        )
    return size


def _decoder(sam: Sam) -> SamOnnxModel:
    """`SamOnnxModel` for one mask, with padding cut off by `orig_im_size` inside the graph.

    The package on PyPI takes `int()` of the size while it is traced, which freezes the example's; the code that SAM was
    published with does not.
    """
    import torch
    from segment_anything.utils.onnx import SamOnnxModel
    from torch.nn import functional as F

    class Published(SamOnnxModel):
        def mask_postprocessing(self, masks: torch.Tensor, orig_im_size: torch.Tensor) -> torch.Tensor:
            masks = F.interpolate(masks, (self.img_size, self.img_size), mode="bilinear", align_corners=False)
            shown = self.resize_longest_image_size(orig_im_size, self.img_size)
            height, width = orig_im_size.to(torch.int64)
            return F.interpolate(
                masks[..., : shown[0], : shown[1]], (height, width), mode="bilinear", align_corners=False
            )

    return Published(sam, return_single_mask=True)
