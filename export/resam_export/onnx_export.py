"""Graphs to ONNX: traced by torch, folded, cleaned and named.

Opset 18 is the lowest that holds all that the graphs need as single operators (LayerNormalization came with 17,
reductions with axes as an input, which the exporter writes, with 18) and that TensorRT 10.3 reads whole. IR version 8
goes with it.
"""

from __future__ import annotations

import ast
import collections
import contextlib
import gc
import hashlib
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript import opset18 as op
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewriteRuleSet
from onnxscript.rewriter.rules import common as rules

from resam_runtime.engine.manifest import TensorSpec

from .graphs import Graph
from .models import add_constant, drop_unused, merge_equal, to_bytes

OPSET = 18
IR_VERSION = 8
FOLD_LIMIT = 1 << 28  # elements: every constant expression is worked out here, whatever its size
# of onnxscript's rules those that find something in these graphs: all of them take six times as long
RULES = RewriteRuleSet(
    [
        rules.collapse_slice_rule,
        rules.materialize_reshape_shape_rule,
        rules.reshape_reshape_rule,
        rules.no_op_transpose_rule,
        rules.transpose_transpose_rule,
        rules.unsqueeze_unsqueeze_rule,
        rules.squeeze_reshape_1d_rule,
        rules.remove_optional_bias_from_conv_rule,
    ]
)


def export_graphs(
    graphs: Mapping[str, Graph], advance: Callable[[str], None] = lambda graph: None
) -> dict[str, ir.Model]:
    """All graphs of an engine in fp32. `decoder` is the first half of `loop`, cut out: the same nodes, traced once.

    The loop is not traced again where it is the one that this process traced last, as for other precisions of an
    adapter, or another adapter of its base: it takes longer than the encoder, which alone is adapted.
    """
    advance("encoder")
    encoder = export_graph(graphs["encoder"])
    advance("loop")
    loop = _traced_once(graphs["loop"])
    advance("decoder")
    models = {"encoder": encoder, "loop": loop, "decoder": _first_pass(loop, graphs["decoder"])}
    for name in [name for name in graphs if name not in models]:
        advance(name)
        models[name] = export_graph(graphs[name])
    return models


_last_traced: dict[str, bytes] = {}


def _traced_once(graph: Graph) -> ir.Model:
    key = fingerprint(graph)
    if key not in _last_traced:
        _last_traced.clear()
        _last_traced[key] = to_bytes(export_graph(graph))
    return ir.from_proto(onnx.ModelProto.FromString(_last_traced[key]))


def fingerprint(graph: Graph) -> str:
    """A digest of all that a graph is made of: its tensors' names and shapes, its modules' settings and weights."""
    digest = hashlib.sha256(repr((graph.name, graph.inputs, graph.outputs)).encode())
    for name, module in graph.module.named_modules():
        settings = {key: value for key, value in vars(module).items() if isinstance(value, bool | int | float | str)}
        digest.update(repr((name, type(module).__qualname__, sorted(settings.items()))).encode())
    for name, value in sorted(graph.module.state_dict().items()):  # merged adapters stand at its end
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def export_graph(graph: Graph) -> ir.Model:
    """Trace one graph; returns a model with fp32 weights inside and inputs and outputs as `graph` names them.

    All constant expressions are folded and equal ones computed once, which is how the projections of the image
    tokens serve both passes of the loop.
    """
    with torch.no_grad(), _quiet(), _no_collection():
        program = torch.onnx.export(
            graph.module,
            graph.example(),
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in graph.inputs],
            output_names=[spec.name for spec in graph.outputs],
            dynamic_shapes=graph.dynamic_shapes(),
            custom_translation_table={torch.ops.aten.gelu.default: _gelu},
            optimize=False,  # it is done below, and takes a quarter of the whole time
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"torch did not export the graph {graph.name}")
    model: ir.Model = program.model
    _fold_fills(model.graph)
    common.InlinePass()(model)
    for _ in range(2):
        fold_constants_ir(model, onnx_shape_inference=True, input_size_limit=FOLD_LIMIT, output_size_limit=FOLD_LIMIT)
        RULES.apply_to_model(model)
        common.RemoveUnusedNodesPass()(model)
    passes: Sequence[Callable[[ir.Model], Any]] = (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        # before equal expressions are looked for: the two passes of the loop read weights that were folded twice
        lambda model: merge_equal(model.graph),
        common.CommonSubexpressionEliminationPass(),
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.TopologicalSortPass(),
    )
    for clean in passes:
        clean(model)
    _each_output_apart(model.graph, [spec.name for spec in graph.outputs])
    _name(model)
    common.ClearMetadataAndDocStringPass()(model)  # the exporter's metadata holds paths of this machine
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version, model.graph.name = "resam", None, graph.name
    _describe(model.graph.inputs, graph.inputs)
    _describe(model.graph.outputs, graph.outputs)
    return model


def _first_pass(loop: ir.Model, graph: Graph) -> ir.Model:
    """The part of `loop` that gives the coarse masks and scores, as the graph `decoder`."""
    inputs, outputs = [spec.name for spec in graph.inputs], [spec.name for spec in graph.outputs]
    part = ir.convenience.extract(loop.graph, inputs, [f"coarse_{name}" for name in outputs])
    model = ir.Model(part, ir_version=IR_VERSION, producer_name="resam")
    for value, name in zip(part.outputs, outputs, strict=True):
        value.name = name
    part.name = graph.name
    drop_unused(part)
    return model


def _fold_fills(graph: ir.Graph) -> None:
    """Make constants of the fills whose size is known: the exporter's own folding leaves them."""
    for node in list(graph):
        size = node.inputs[0] if node.op_type == "ConstantOfShape" else None
        known = None if size is None else ir.convenience.get_const_tensor(size)
        if known is not None:
            fill = node.attributes["value"].as_tensor().numpy() if "value" in node.attributes else np.float32(0)
            filled = add_constant(graph, f"{node.outputs[0].name}", np.full(known.numpy(), fill))
            node.outputs[0].replace_all_uses_with(filled)
            graph.remove(node, safe=True)


def _each_output_apart(graph: ir.Graph, names: Sequence[str]) -> None:
    """Copy an output that is another as well, and name both: without Requery the coarse masks are the masks."""
    for place, value in enumerate(graph.outputs):
        later = [other for other in range(place + 1, len(names)) if graph.outputs[other] is value]
        if later:
            copy = ir.node("Identity", [value])
            graph.append(copy)
            copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
            graph.outputs[place] = copy.outputs[0]
            copy.outputs[0].name, value.name = names[place], names[later[-1]]


def _gelu(x: Any, approximate: str = "none") -> Any:
    """GELU, exact or by its formula with tanh, in the order of operations that ONNX Runtime recognises and fuses."""
    if approximate == "tanh":
        three: Any = op.Constant(value_float=3.0)
        cubic = op.Mul(op.Pow(x, three), op.Constant(value_float=0.044715))
        inner = op.Mul(op.Add(x, cubic), op.Constant(value_float=math.sqrt(2 / math.pi)))
        half = op.Mul(x, op.Constant(value_float=0.5))
        return op.Mul(half, op.Add(op.Tanh(inner), op.Constant(value_float=1.0)))
    erf = op.Erf(op.Div(x, op.Constant(value_float=2.0**0.5)))
    return op.Mul(op.Mul(x, op.Add(erf, op.Constant(value_float=1.0))), op.Constant(value_float=0.5))


def _name(model: ir.Model) -> None:
    """Name nodes and their outputs after the module they come from, weights after the node that reads them."""
    graph = model.graph
    kept = {value.name for value in (*graph.inputs, *graph.outputs)}
    counts: collections.Counter[str] = collections.Counter()
    for node in graph:
        scope = _scope(node)
        stem = f"{scope}/{node.op_type}" if scope else node.op_type
        counts[stem] += 1
        node.name = stem if counts[stem] == 1 else f"{stem}_{counts[stem]}"
        for index, value in enumerate(node.outputs):
            if value.name not in kept:
                value.name = node.name if len(node.outputs) == 1 else f"{node.name}.{index}"
    for value in list(graph.initializers.values()):
        uses = value.uses()
        if (uses and (value.name or "").startswith(("val_", "_"))) or "." not in (value.name or ""):
            use = next(iter(uses))
            value.name = f"{use.node.name}:{use.idx}"


def _scope(node: ir.Node) -> str:
    """The path of the module that a node was traced in."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
    except (ValueError, SyntaxError):
        return ""
    # a scope that starts with "_" is the tracer's own: the arithmetic of dynamic sizes
    return str(scopes[-2]) if len(scopes) > 1 and not scopes[-2].startswith("_") else ""


def _describe(values: Sequence[ir.Value], specs: Sequence[TensorSpec]) -> None:
    """Check names and types of a graph's inputs or outputs, and write the shapes of the contract."""
    for value, spec in zip(values, specs, strict=True):
        dtype = "none" if value.dtype is None else str(value.dtype.numpy())
        if (value.name, dtype) != (spec.name, spec.dtype):
            raise RuntimeError(f"torch exported {value.name} {dtype} where {spec.name} {spec.dtype} was expected")
        value.shape = ir.Shape(spec.shape)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's exporter from writing about its steps."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python from looking for cycles among the many small objects that torch makes: a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
