"""Everything that our code asks of TensorRT exists in TensorRT's own Python bindings, from 10.3 to 11, and takes as
many arguments as we give. The bindings of each version are imported without a library behind them.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .trt_cpu.bindings import BINDINGS, inspectable

ROOT = Path(__file__).parents[2]
VERSIONS = ("tensorrt-cu12-bindings==10.3.0", "tensorrt-cu12-bindings==10.16.1.11", BINDINGS)

# What each name of a file stands for; "" is the module, () the result of a call.
BUILD = {
    "trt": "",
    "toolchain.trt": "",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "parser.get_error()": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "tensor": "ITensor",
    "t": "ITensor",
    "plan": "IHostMemory",
    "timing": "ITimingCache",
}
FILES = {
    "export/resam_export/tensorrt/build.py": BUILD,
    "export/resam_export/tensorrt/versions.py": {**BUILD, "tensorrt": ""},
    "export/resam_export/tensorrt/log.py": {"trt": "", "severity": "ILogger.Severity"},
    "export/resam_export/tensorrt/phases.py": {"trt": ""},
    "runtime/resam_runtime/engine/backends/tensorrt.py": {
        "trt": "",
        "self._trt": "",
        "runtime": "Runtime",
        "plan": "ICudaEngine",
        "plan.get_tensor_dtype()": "DataType",
        "self._plan": "ICudaEngine",
        "context": "IExecutionContext",
        "self._context": "IExecutionContext",
    },
}
# Reached in some versions only: the function that branches on the version, and the last first number that gets there.
UNTIL = {("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"): 10}

DUMP = """
import inspect, json, sys, tensorrt
found = {"": {}}
def look(path, owner, deep):
    found[path] = {}
    for name in dir(owner):
        value = getattr(owner, name, None)
        found[path][name] = (value.__doc__ or "") if callable(value) and not inspect.isclass(value) else ""
        if inspect.isclass(value) and not name.startswith("__") and deep:
            look(f"{path}.{name}".lstrip("."), value, deep - 1)
look("", tensorrt, 2)
json.dump({"version": tensorrt.__version__, "classes": found}, sys.stdout)
"""


@dataclass(frozen=True)
class Use:
    """An attribute that a file takes from a class of TensorRT; `arguments`: how many it is called with, if it is."""

    file: str
    line: int
    owner: str
    name: str
    arguments: int | None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.owner or 'tensorrt'}.{self.name}"


def uses() -> Iterator[Use]:
    for file, names in FILES.items():
        tree = ast.parse((ROOT / file).read_text())
        called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            owner = _owner(_path(node.value), names)
            if owner is not None:
                call = called.get(id(node))
                starred = call is not None and any(isinstance(argument, ast.Starred) for argument in call.args)
                arguments = None if call is None or starred else len(call.args) + len(call.keywords)
                yield Use(Path(file).name, node.lineno, owner, node.attr, arguments)


def _path(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_path(node.value)}.{node.attr}"
    return f"{_path(node.func)}()" if isinstance(node, ast.Call) else "?"


def _owner(path: str, names: dict[str, str]) -> str | None:
    """The class that an expression stands for: "trt.ILogger" -> "ILogger"."""
    if path in names:
        return names[path]
    for name, owner in names.items():
        rest = path.removeprefix(f"{name}.")
        if owner == "" and rest != path and "(" not in rest and rest[0].isupper():
            return rest
    return None


def accepted(signature: str) -> list[tuple[int, int]]:
    """How many arguments (least, most) each overload takes, without self, from the docstring that pybind11 writes."""
    counts = []
    for found in re.finditer(r"^(?:\d+\. )?\w+\((.*)\) ->", signature, re.MULTILINE):
        text = re.sub(r"<[^<>]*>", "v", found[1])
        while re.search(r"\[[^\[\]]*\]", text):
            text = re.sub(r"\[[^\[\]]*\]", "", text)
        parameters = [part for part in text.split(",") if part.strip() and not part.strip().startswith("self")]
        if any(part.strip().startswith("*") for part in parameters):
            counts.append((0, 99))
        else:
            counts.append((sum("=" not in part for part in parameters), len(parameters)))
    return counts


@pytest.fixture(scope="module", params=VERSIONS)
def bindings(request: pytest.FixtureRequest) -> dict[str, dict[str, dict[str, str]]]:
    done = subprocess.run(
        [sys.executable, "-c", DUMP], env=inspectable(request.param), capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["version"] == request.param.split("==")[1]
    return {**found["classes"], "version": {"first": found["version"].split(".")[0]}}


def test_every_attribute_exists(bindings: dict[str, dict[str, str]]) -> None:
    major = int(bindings["version"]["first"])
    reached = [use for use in uses() if major <= UNTIL.get((use.owner, use.name), major)]
    absent = [str(use) for use in reached if use.name not in bindings.get(use.owner, {})]
    assert absent == []


def test_every_call_has_as_many_arguments_as_it_takes(bindings: dict[str, dict[str, str]]) -> None:
    wrong, checked = [], set()
    for use in uses():
        makes = f"{use.owner}.{use.name}".lstrip(".")  # a class is called through its __init__
        described = bindings[makes]["__init__"] if makes in bindings else bindings[use.owner].get(use.name, "")
        overloads = accepted(described)
        if use.arguments is None or not overloads or use.name == "__init__":
            continue
        checked.add((use.owner, use.name))
        if not any(least <= use.arguments <= most for least, most in overloads):
            wrong.append(f"{use} called with {use.arguments}, takes {overloads}")
    assert wrong == []
    assert len(checked) > 20


def test_the_search_sees_what_the_code_uses() -> None:
    seen = {(use.owner, use.name) for use in uses()}
    assert {
        ("", "Builder"),
        ("Builder", "build_serialized_network"),
        ("IBuilderConfig", "progress_monitor"),
        ("BuilderFlag", "VERSION_COMPATIBLE"),
        ("ILogger", "Severity"),
        ("ILogger.Severity", "INTERNAL_ERROR"),
        ("ParserError", "desc"),
        ("ICudaEngine", "device_memory_size_v2"),
        ("IExecutionContext", "execute_async_v3"),
        ("TensorIOMode", "INPUT"),
    } <= seen
