"""What TensorRT says while it builds: errors and warnings kept, and which warnings mean wrong masks."""

from __future__ import annotations

import re
from typing import Any

_KEPT = 200  # characters of a message, and messages of a build
_LAYER_NORM = re.compile(r"layer[ _-]?norm", re.IGNORECASE)
_HALF = re.compile(r"fp16|half|float16", re.IGNORECASE)


class BuildLog:
    """The errors and warnings of one build, each on one line, each once, in order."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def add(self, kind: list[str], message: str) -> None:
        line = " ".join(message.split())[:_KEPT]
        if line not in kind and len(kind) < _KEPT:
            kind.append(line)

    def reason(self) -> str:
        """Why a build failed, as TensorRT has it: its first error, which causes the later ones."""
        return self.errors[0] if self.errors else "TensorRT gives no reason"

    def overflow_warnings(self) -> list[str]:
        """Warnings that a layer normalisation runs in fp16, where its sum of squares overflows."""
        return [line for line in self.warnings if _LAYER_NORM.search(line) and _HALF.search(line)]


def trt_logger(trt: Any, log: BuildLog) -> Any:
    """A TensorRT logger that prints nothing and writes to `log`."""
    severity = trt.ILogger.Severity
    kinds = {
        severity.ERROR: log.errors,
        severity.INTERNAL_ERROR: log.errors,
        severity.WARNING: log.warnings,
    }

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in kinds:
                log.add(kinds[severity], message)

    return Logger()
