"""Engine files for tests: tiny ONNX graphs that keep the graph contract and whose masks are known in advance.

`write_engine(path)` writes one. Its decoder marks a disc of `radius` tile pixels around each positive point (and
the inside of a box prompt); with `by_value` only where the image is about as bright as under the point, so
that flat bright shapes on a dark ground come out whole. Its scores are 0.9 (`by_value`: the brightness under the first
point), the loop's 0.05 higher.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx.parser

from resam_runtime.engine.engine_file import write_engine_file
from resam_runtime.engine.manifest import GraphSpec, Manifest, TensorSpec
from resam_runtime.engine.prompter_spec import FoundClass, PrompterSpec
from resam_runtime.masks.instance import Instance

ENCODER = """
<ir_version: 8, opset_import: ["" : 18]>
encoder (uint8[B, S, S, 3] image) => (float[B, 16, G, G] embedding) {{
    pixels = Cast <to = 1> (image)
    planes = Transpose <perm = [0, 3, 1, 2]> (pixels)
    axes = Constant <value_ints = [1]> ()
    gray = ReduceMean <keepdims = 1> (planes, axes)
    full = Constant <value_float = 255.0> ()
    unit = Div (gray, full)
    cells = AveragePool <kernel_shape = [{cell}, {cell}], strides = [{cell}, {cell}]> (unit)
    embedding = SpaceToDepth <blocksize = 4> (cells)
}}
"""

DECODER_BODY = """
    first_channel = Constant <value_ints = [0]> ()
    last_channel = Constant <value_ints = [16]> ()
    channels = Constant <value_ints = [1]> ()
    used = Slice (embedding, first_channel, last_channel, channels)
    gray = DepthToSpace <blocksize = 4> (used)
    flat_shape = Constant <value_ints = [-1]> ()
    gray_flat = Reshape (gray, flat_shape)
    zero = Constant <value_float = 0.0> ()
    half = Constant <value_float = 0.5> ()
    cell = Constant <value_float = {cell}.0> ()
    last = Constant <value_float = {last}.0> ()
    size = Constant <value_float = {mask}.0> ()
    one = Constant <value_float = 1.0> ()
    count_f = Add (last, one)
    ramp = Range (zero, count_f, one)
    ramp_mid = Add (ramp, half)
    ramp_px = Mul (ramp_mid, cell)
    centres = Sub (ramp_px, half)
    row_shape = Constant <value_ints = [1, 1, {mask}, 1]> ()
    column_shape = Constant <value_ints = [1, 1, 1, {mask}]> ()
    grid_y = Reshape (centres, row_shape)
    grid_x = Reshape (centres, column_shape)
    x_index = Constant <value_int = 0> ()
    y_index = Constant <value_int = 1> ()
    x_flat = Gather <axis = 2> (point_coords, x_index)
    y_flat = Gather <axis = 2> (point_coords, y_index)
    tail = Constant <value_ints = [2, 3]> ()
    x = Unsqueeze (x_flat, tail)
    y = Unsqueeze (y_flat, tail)
    label = Unsqueeze (point_labels, tail)
    dx = Sub (grid_x, x)
    dy = Sub (grid_y, y)
    dx2 = Mul (dx, dx)
    dy2 = Mul (dy, dy)
    d2 = Add (dx2, dy2)
    distance = Sqrt (d2)
    radius = Constant <value_float = {radius}> ()
    disc = Sub (radius, distance)
    x_mid = Add (x_flat, half)
    y_mid = Add (y_flat, half)
    x_cell_f = Div (x_mid, cell)
    y_cell_f = Div (y_mid, cell)
    x_floor = Floor (x_cell_f)
    y_floor = Floor (y_cell_f)
    x_cell = Clip (x_floor, zero, last)
    y_cell = Clip (y_floor, zero, last)
    y_offset = Mul (y_cell, size)
    index_f = Add (y_offset, x_cell)
    index = Cast <to = 7> (index_f)
    under = Gather (gray_flat, index)
    under_4d = Unsqueeze (under, tail)
    difference = Sub (gray, under_4d)
    unlike = Abs (difference)
    tolerance = Constant <value_float = 0.15> ()
    alike_unit = Sub (tolerance, unlike)
    steep = Constant <value_float = {steep}> ()
    alike_scaled = Mul (alike_unit, steep)
    lift = Constant <value_float = {lift}> ()
    alike = Add (alike_scaled, lift)
    marked = Min (disc, alike)
    nowhere = Constant <value_float = -1000.0> ()
    label_one = Constant <value = int32 {{1}}> ()
    label_two = Constant <value = int32 {{2}}> ()
    label_three = Constant <value = int32 {{3}}> ()
    is_positive = Equal (label, label_one)
    is_first = Equal (label, label_two)
    is_second = Equal (label, label_three)
    positive = Where (is_positive, marked, nowhere)
    negative_dx = Neg (dx)
    negative_dy = Neg (dy)
    first_edges = Min (dx, dy)
    second_edges = Min (negative_dx, negative_dy)
    points_axis = Constant <value_ints = [1]> ()
    from_points = ReduceMax <keepdims = 0> (positive, points_axis)
    first_here = Where (is_first, first_edges, nowhere)
    second_here = Where (is_second, second_edges, nowhere)
    from_first = ReduceMax <keepdims = 0> (first_here, points_axis)
    from_second = ReduceMax <keepdims = 0> (second_here, points_axis)
    from_box = Min (from_first, from_second)
    {masks} = Max (from_points, from_box)
    first_point = Gather <axis = 1> (under, x_index)
    by_value = Constant <value_float = {by_value}> ()
    constant_score = Constant <value_float = {score}> ()
    value_score = Mul (first_point, by_value)
    {scores} = Add (value_score, constant_score)
"""

DECODER = (
    """
<ir_version: 8, opset_import: ["" : 18]>
decoder (float[1, C, G, G] embedding, float[N, P, 2] point_coords, int32[N, P] point_labels)
    => (float[N, M, M] masks, float[N] scores) {{"""
    + DECODER_BODY
    + "}}"
)

LOOP = (
    """
<ir_version: 8, opset_import: ["" : 18]>
loop (float[1, C, G, G] embedding, float[N, P, 2] point_coords, int32[N, P] point_labels)
    => (float[N, M, M] masks, float[N] scores, float[N, 4] boxes, float[N, M, M] coarse_masks,
        float[N] coarse_scores) {{"""
    + DECODER_BODY
    + """
    masks = Identity (coarse_masks)
    gain = Constant <value_float = 0.05> ()
    scores = Add (coarse_scores, gain)
    inside = Greater (coarse_masks, zero)
    far = Constant <value_float = 100000.0> ()
    minus_far = Neg (far)
    map_axes = Constant <value_ints = [1, 2]> ()
    row_map = Constant <value_ints = [1, {mask}, 1]> ()
    column_map = Constant <value_ints = [1, 1, {mask}]> ()
    map_y = Reshape (centres, row_map)
    map_x = Reshape (centres, column_map)
    low_x = Where (inside, map_x, far)
    low_y = Where (inside, map_y, far)
    high_x = Where (inside, map_x, minus_far)
    high_y = Where (inside, map_y, minus_far)
    x0 = ReduceMin <keepdims = 0> (low_x, map_axes)
    y0 = ReduceMin <keepdims = 0> (low_y, map_axes)
    x1 = ReduceMax <keepdims = 0> (high_x, map_axes)
    y1 = ReduceMax <keepdims = 0> (high_y, map_axes)
    last_axis = Constant <value_ints = [1]> ()
    x0_column = Unsqueeze (x0, last_axis)
    y0_column = Unsqueeze (y0, last_axis)
    x1_column = Unsqueeze (x1, last_axis)
    y1_column = Unsqueeze (y1, last_axis)
    corners = Concat <axis = 1> (x0_column, y0_column, x1_column, y1_column)
    found = LessOrEqual (x0_column, x1_column)
    boxes = Where (found, corners, zero)
}}"""
)


# Bright discs are instances; those nearly white are of the second class. Boxes reach 9 px to each side.
PROMPTER = """
<ir_version: 8, opset_import: ["" : 18]>
prompter (float[B, 16, G, G] embedding) => (float[B, 2, H, H] heat, float[B, 4, H, H] boxes) {{
    gray = DepthToSpace <blocksize = 4> (embedding)
    fine = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (gray)
    near = AveragePool <kernel_shape = [5, 5], pads = [2, 2, 2, 2], count_include_pad = 1> (fine)
    zero = Constant <value_float = 0.0> ()
    least = Constant <value_float = 0.3> ()
    white = Constant <value_float = 0.87> ()
    steep = Constant <value_float = 20.0> ()
    reach = Constant <value_float = 9.0> ()
    above = Sub (near, least)
    base = Mul (above, steep)
    brightest = MaxPool <kernel_shape = [5, 5], pads = [2, 2, 2, 2]> (fine)
    whiter = Sub (brightest, white)
    sure = Mul (whiter, steep)
    surer = Mul (sure, steep)
    over = Max (surer, zero)
    under = Min (surer, zero)
    gray_class = Sub (base, over)
    white_class = Add (base, under)
    heat = Concat <axis = 1> (gray_class, white_class)
    nothing = Mul (near, zero)
    side = Add (nothing, reach)
    boxes = Concat <axis = 1> (side, side, side, side)
}}
"""


def engine_graphs(
    image_size: int = 64,
    patch_size: int = 8,
    radius: float = 6.0,
    by_value: bool = False,
    finds: bool = False,
    embedding_dim: int = 16,
) -> dict[str, bytes]:
    """The three graphs, serialised; four where it `finds`. embedding_dim: channels that decoder and loop take; they use
    the 16 of the encoder."""
    cell, mask = patch_size // 4, 4 * image_size // patch_size
    numbers: dict[str, Any] = {
        "cell": cell,
        "mask": mask,
        "last": mask - 1,
        "radius": float(radius),
        "by_value": 1.0 if by_value else 0.0,
        "score": 0.0 if by_value else 0.9,
        "steep": 100.0 if by_value else 0.0,
        "lift": 0.0 if by_value else 1e6,
    }
    texts = {
        "encoder": ENCODER.format(**numbers),
        "decoder": DECODER.format(masks="masks", scores="scores", **numbers),
        "loop": LOOP.format(masks="coarse_masks", scores="coarse_scores", **numbers),
    }
    if finds:
        texts["prompter"] = PROMPTER.format()
    grid = image_size // patch_size
    for name, number in (("S", image_size), ("C", embedding_dim), ("G", grid), ("M", mask), ("H", 2 * grid)):
        texts = {graph: _fix(text, name, number) for graph, text in texts.items()}
    graphs = {}
    for name, text in texts.items():
        model = onnx.parser.parse_model(text)
        onnx.checker.check_model(model, full_check=True)
        graphs[name] = model.SerializeToString()
    return graphs


def _fix(text: str, name: str, number: int) -> str:
    """Put a fixed size in place of a dimension's name in the graph's signature."""
    head, body = text.split("{", 1)
    return head.replace(f" {name},", f" {number},").replace(f" {name}]", f" {number}]") + "{" + body


def engine_manifest(image_size: int = 64, patch_size: int = 8, finds: bool = False, **changes: Any) -> Manifest:
    """The manifest that suits `engine_graphs`; keyword arguments replace fields."""
    grid, mask, dim = image_size // patch_size, 4 * image_size // patch_size, 16
    prompt = (
        TensorSpec("embedding", "float32", (1, dim, grid, grid)),
        TensorSpec("point_coords", "float32", ("N", "P", 2)),
        TensorSpec("point_labels", "int32", ("N", "P")),
    )
    masks, scores = TensorSpec("masks", "float32", ("N", mask, mask)), TensorSpec("scores", "float32", ("N",))
    image = TensorSpec("image", "uint8", ("B", image_size, image_size, 3))
    loop_outputs = (
        masks,
        scores,
        TensorSpec("boxes", "float32", ("N", 4)),
        TensorSpec("coarse_masks", "float32", ("N", mask, mask)),
        TensorSpec("coarse_scores", "float32", ("N",)),
    )
    fields: dict[str, Any] = {
        "backend": "onnx",
        "precision": "fp32",
        "image_size": image_size,
        "patch_size": patch_size,
        "mask_size": mask,
        "embedding_dim": dim,
        "fit_within": image_size,
        "scale": 1.0,
        "max_points": None,
        "max_points_per_instance": None,
        "max_batch": None,
        "refine_threshold": 0.3,
        "requery": "box+points",
        "rounds": 1,
        "graphs": {
            "encoder": GraphSpec(
                "encoder.onnx", "", (image,), (TensorSpec("embedding", "float32", ("B", dim, grid, grid)),)
            ),
            "decoder": GraphSpec("decoder.onnx", "", prompt, (masks, scores)),
            "loop": GraphSpec("loop.onnx", "", prompt, loop_outputs),
        },
        "base": {"name": "fake", "sha256": "0" * 64},
        "adapter": None,
        "training": None,
        "verification": {},
        "created": "2026-01-01T00:00:00+00:00",
        "resam_version": "0.2.0",
    }
    if finds:
        heat, boxes = (TensorSpec(n, "float32", ("B", k, 2 * grid, 2 * grid)) for n, k in (("heat", 2), ("boxes", 4)))
        embedding = TensorSpec("embedding", "float32", ("B", dim, grid, grid))
        fields["graphs"]["prompter"] = GraphSpec("prompter.onnx", "", (embedding,), (heat, boxes))
        fields["prompter"] = PrompterSpec((FoundClass(3, "gray", 0.5), FoundClass(7, "white", 0.5)))
    return Manifest(**{**fields, **changes})


def write_engine(
    path: str | os.PathLike[str],
    image_size: int = 64,
    patch_size: int = 8,
    radius: float = 6.0,
    by_value: bool = False,
    finds: bool = False,
    **changes: Any,
) -> Manifest:
    """Write an engine file that works; keyword arguments replace fields of its manifest."""
    manifest = engine_manifest(image_size, patch_size, finds, **changes)
    return write_engine_file(path, manifest, engine_graphs(image_size, patch_size, radius, by_value, finds))


def whole(instance: Instance) -> np.ndarray:
    """The mask in its scene, as an independent check of crop and origin."""
    mask = np.zeros(instance.scene_hw, bool)
    x, y = instance.origin
    height, width = instance.mask.shape
    mask[y : y + height, x : x + width] = instance.mask
    return mask
