"""An engine's encoder and decoder as X-AnyLabeling and samexporter read them, and the configuration that names them.

Both tools feed SAM as samexporter exports it, and have its size as a constant: the image's longer side is 1024. So what
is between that frame and the engine's tile is put around the graphs, and the graphs themselves are the engine's:

    encoder   input_image float32 (H, W, 3), RGB in 0..255, H and W at most 1024  ->  image_embeddings
    decoder   image_embeddings, point_coords float32 (N, P, 2) in the resized image, point_labels float32 (N, P),
              mask_input and has_mask_input (not read), orig_im_size float32 (2,), height and width
              ->  masks float32 (N, 1, height, width) logits, iou_predictions (N, 1), low_res_masks (N, 1, M, M)

samexporter resizes the image and takes low_res_masks, the square of 1024; X-AnyLabeling draws it on a black canvas of
684 x 1024, which it calls the image's own size, and takes masks.

Sources: samexporter 0.5, sam_onnx.py; X-AnyLabeling, services/auto_labeling/sam_onnx.py and segment_anything.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resam_runtime.common.errors import ResamError
from resam_runtime.common.extras import needs_extra
from resam_runtime.common.files import atomic_write
from resam_runtime.engine.backends.onnx import OnnxBackend
from resam_runtime.engine.engine_file import EngineFile
from resam_runtime.engine.manifest import Manifest
from resam_runtime.tiles.letterbox import PAD_VALUE

if TYPE_CHECKING:
    import onnx

FRAME = 1024  # px: the longer side of an image in both tools
CANVAS = (684, 1024)  # px: height and width of X-AnyLabeling's canvas
_OURS = "engine/"  # before the names in the engine's graphs, so that none meets a name of the frame


def write_x_anylabeling(engine: EngineFile, folder: Path) -> list[Path]:
    """Write NAME.encoder.onnx, NAME.decoder.onnx and NAME.yaml, the configuration, into `folder`; NAME is the engine's.

    Returns the three files. Raises `ResamError` for an engine that is not of ONNX graphs or whose tile does not divide
    1024 px, and where a file cannot be written.
    """
    manifest, name = engine.manifest, engine.path.stem
    if manifest.backend != OnnxBackend.reads:
        raise ResamError(
            f"{engine.path}: X-AnyLabeling reads ONNX, this holds plans of {manifest.backend}; give a .resam"
        )
    if FRAME % manifest.image_size:
        size = manifest.image_size
        raise ResamError(
            f"{engine.path}: its tile of {size} px is no half, quarter, ... of the {FRAME} px that X-AnyLabeling "
            "scales an image to; export a base of 1024, 512 or 256 px"
        )
    with needs_extra("--for x-anylabeling", "export"):
        encoder = framed_encoder(engine.graph("encoder"), manifest)
        decoder = framed_decoder(engine.graph("decoder"), manifest)
    parts = {"encoder": folder / f"{name}.encoder.onnx", "decoder": folder / f"{name}.decoder.onnx"}
    configuration = folder / f"{name}.yaml"
    contents = {
        parts["encoder"]: encoder.SerializeToString(),
        parts["decoder"]: decoder.SerializeToString(),
        configuration: _configuration(name, manifest, parts).encode(),
    }
    try:
        for path, content in contents.items():
            with atomic_write(path) as temporary:
                temporary.write_bytes(content)
    except OSError as error:
        raise ResamError(f"{path}: cannot be written ({error.strerror or error}); choose another folder") from None
    return list(contents)


def framed_encoder(graph: bytes, manifest: Manifest) -> onnx.ModelProto:
    """An engine's encoder that takes an image of any shape, its longer side 1024, for its tile.

    The image is padded with the mean pixel, and the square averaged down to the tile, as `letterbox` averages.
    """
    import onnx
    from onnxscript import onnx_types, opset18, script

    op: Any = opset18  # as the scripts below write it, of which mypy understands little
    types: Any = onnx_types

    size, cell = manifest.image_size, [FRAME // manifest.image_size] * 2
    square, pad = [FRAME, FRAME], [float(value) for value in PAD_VALUE]

    @script(default_opset=op)
    def before(input_image):  # type: ignore[no-untyped-def]
        missing = op.Constant(value_ints=square) - op.Shape(input_image, start=0, end=2)
        centred = input_image - op.Constant(value_floats=pad)
        padded = op.Pad(centred, op.Concat([0, 0], missing, axis=0), None, [0, 1]) + op.Constant(value_floats=pad)
        planes = op.Unsqueeze(op.Transpose(padded, perm=[2, 0, 1]), [0])
        averaged = op.AveragePool(planes, kernel_shape=cell, strides=cell)
        pixels = op.Clip(op.Round(op.Transpose(averaged, perm=[0, 2, 3, 1])), 0.0, 255.0)
        tile = op.Cast(pixels, to=onnx.TensorProto.UINT8)
        return tile  # noqa: RET504 (the output's name)

    @script(default_opset=op)
    def after(embedding):  # type: ignore[no-untyped-def]
        image_embeddings = op.Identity(embedding)
        return image_embeddings  # noqa: RET504

    shape = (1, *manifest.graphs["encoder"].outputs[0].shape[1:])
    embedding = types.FLOAT[shape]
    return _around(
        before.to_model_proto(input_types=[types.FLOAT["H", "W", 3]], output_types=[types.UINT8[1, size, size, 3]]),
        {"tile": "image"},
        graph,
        {"embedding": "embedding"},
        after.to_model_proto(input_types=[embedding], output_types=[embedding]),
    )


def framed_decoder(graph: bytes, manifest: Manifest) -> onnx.ModelProto:
    """An engine's decoder with the tensors of SAM's own ONNX decoder: prompts of the resized image, masks of its size.

    Prompts go from the resized image to the tile by pixel centres. Both tools multiply a coordinate by the scale of the
    image, which is wrong by up to half a pixel; that scale is known from orig_im_size, so it is put right here.
    """
    import onnx
    from onnxscript import onnx_types, opset18, script

    op: Any = opset18  # as the scripts below write it, of which mypy understands little
    types: Any = onnx_types

    frame, ratio, square = float(FRAME), manifest.image_size / FRAME, [FRAME, FRAME]

    @script(default_opset=op)
    def before(image_embeddings, point_coords, point_labels, mask_input, has_mask_input, orig_im_size):  # type: ignore[no-untyped-def]
        half_pixel = frame / op.ReduceMax(orig_im_size) * 0.5
        coords = (point_coords + half_pixel) * ratio - 0.5
        labels = op.Cast(point_labels, to=onnx.TensorProto.INT32)
        embedding = op.Identity(image_embeddings)
        size = op.Identity(orig_im_size)
        return embedding, coords, labels, size

    @script(default_opset=op)
    def after(logits, scores, size):  # type: ignore[no-untyped-def]
        low_res_masks = op.Unsqueeze(logits, [1])
        iou_predictions = op.Unsqueeze(scores, [1])
        start = op.Shape(low_res_masks, start=0, end=2)
        whole = op.Resize(
            low_res_masks, None, None, op.Concat(start, op.Constant(value_ints=square), axis=0), mode="linear"
        )
        resized = op.Cast(op.Floor(size * (frame / op.ReduceMax(size)) + 0.5), to=onnx.TensorProto.INT64)
        image = op.Slice(whole, [0, 0], resized, [2, 3])
        height_width = op.Cast(size, to=onnx.TensorProto.INT64)
        masks = op.Resize(image, None, None, op.Concat(start, height_width, axis=0), mode="linear")
        return masks, iou_predictions, low_res_masks

    specs = {spec.name: spec.shape for spec in manifest.graphs["decoder"].inputs}
    embedding, coords, labels = specs["embedding"], specs["point_coords"], specs["point_labels"]
    mask = manifest.mask_size
    return _around(
        before.to_model_proto(
            input_types=[
                types.FLOAT[embedding],
                types.FLOAT[coords],
                types.FLOAT[labels],
                types.FLOAT[1, 1, 256, 256],
                types.FLOAT[1],
                types.FLOAT[2],
            ],
            output_types=[types.FLOAT[embedding], types.FLOAT[coords], types.INT32[labels], types.FLOAT[2]],
        ),
        {"embedding": "embedding", "coords": "point_coords", "labels": "point_labels"},
        graph,
        {"masks": "logits", "scores": "scores"},
        after.to_model_proto(
            input_types=[types.FLOAT["N", mask, mask], types.FLOAT["N"], types.FLOAT[2]],
            output_types=[types.FLOAT["N", 1, "height", "width"], types.FLOAT["N", 1], types.FLOAT["N", 1, mask, mask]],
        ),
    )


def _around(
    before: onnx.ModelProto, into: dict[str, str], graph: bytes, out_of: dict[str, str], after: onnx.ModelProto
) -> onnx.ModelProto:
    """One model of three. into: from outputs of `before` to inputs of the graph; out_of: from its outputs to inputs of
    `after`, which also reads what `before` alone puts out, by its name."""
    import onnx
    from onnx import compose

    inner = compose.add_prefix(onnx.ModelProto.FromString(graph), _OURS)
    for frame in (before, after):
        frame.ir_version = inner.ir_version
        _set_apart(frame)
    model = compose.merge_models(before, inner, [(ours, _OURS + theirs) for ours, theirs in into.items()])
    joints = [(_OURS + ours, theirs) for ours, theirs in out_of.items()]
    passed = [value.name for value in before.graph.output if value.name not in into]
    model = compose.merge_models(model, after, joints + [(name, name) for name in passed])
    onnx.checker.check_model(model)
    return model


def _set_apart(model: onnx.ModelProto) -> None:
    """Put the model's own name before its nodes, and each of its values that is neither input nor output."""
    kept = {"", *(value.name for value in (*model.graph.input, *model.graph.output))}
    for node in model.graph.node:
        node.name = f"{model.graph.name}/{node.name}"
        for names in (node.input, node.output):
            names[:] = [name if name in kept else f"{model.graph.name}/{name}" for name in names]


def _configuration(name: str, manifest: Manifest, parts: dict[str, Path]) -> str:
    """X-AnyLabeling's configuration of a SAM of one's own. Every text is quoted as JSON, which YAML holds too."""
    height, width = CANVAS
    values: dict[str, Any] = {
        "type": "segment_anything",
        "name": f"{name}-{(manifest.digest or manifest.graphs['encoder'].sha256)[:8]}",
        "display_name": f"resam {name}",
        "encoder_model_path": parts["encoder"].name,
        "decoder_model_path": parts["decoder"].name,
        "input_size": FRAME,
        "max_width": width,
        "max_height": height,
    }
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())
