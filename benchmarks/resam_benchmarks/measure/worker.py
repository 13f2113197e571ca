"""A process that holds one object and runs functions on it: each rival lives in its own, so that its peak memory is its
own too, and its threads and libraries are nobody else's.

The parent and the worker exchange pickled requests over pipes; both ends are this package, started by this package.
Run as `python -m resam_benchmarks.measure.worker`, by `Worker` only.
"""

from __future__ import annotations

import importlib
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, BinaryIO

from resam_benchmarks.measure import machine
from resam_runtime.common.errors import ResamError


class Worker:
    """The parent's end. Use as a context manager, or `close` it.

    threads: how many the libraries in it may use (None: their own choice). `created_s`: seconds the held object took
    to make, imports included. Calls raise `ResamError` where the worker raised one or died, `RuntimeError` with the
    worker's traceback where it met a defect.
    """

    def __init__(self, factory: str, options: Mapping[str, Any] | None = None, threads: int | None = None) -> None:
        """Start a process that makes `factory` ("package.module:Name") with keyword arguments `options`."""
        environment = dict(os.environ)
        # as multiprocessing does: the child finds what the parent finds, however that was put on its path
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        if threads is not None:
            environment |= {
                name: str(threads)
                for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
            }
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "resam_benchmarks.measure.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
        )
        try:
            self.created_s: float = self._ask("create", factory, dict(options or {}))
        except BaseException:
            self.close()
            raise

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """function(held object, *arguments), there; `function` must be importable by name."""
        return self._ask("call", function, arguments)

    def memory(self) -> dict[str, int | None]:
        """Bytes: "peak" resident since the start, "before" the object was made, "device" where it can be read."""
        return self._ask("memory", None, None)

    def reset_peak(self) -> None:
        """Forget the peak so far, where the kernel can (Linux)."""
        self._ask("reset_peak", None, None)

    def close(self) -> None:
        """End the process. Closing twice is fine."""
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._log.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, verb: str, what: Any, arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            _send(self._process.stdin, (verb, what, arguments))
            kind, value = _receive(self._process.stdout)
        except (EOFError, BrokenPipeError):
            raise ResamError(f"worker: died ({self._last_words()}); out of memory?") from None
        if kind == "error":
            raise ResamError(value)
        if kind == "defect":
            raise RuntimeError(f"in a worker:\n{value}")
        return value

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"exit status {code}" + (f", {lines[-1][:200]}" if lines else "")


def _send(pipe: Any, value: Any) -> None:
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(struct.pack("<Q", len(data)))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: Any) -> Any:
    header = pipe.read(8)
    if len(header) < 8:
        raise EOFError
    (size,) = struct.unpack("<Q", header)
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return pickle.loads(data)


def resolve(name: str) -> Any:
    """The object that "package.module:Name" names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """The worker's end: answer requests until the parent closes its pipe."""
    held: Any = None
    before: int | None = None
    while True:
        try:
            verb, what, arguments = _receive(requests)
        except EOFError:
            return
        try:
            value: Any = None
            if verb == "create":
                before = machine.process_memory().get("current")
                start = time.perf_counter()
                held = resolve(what)(**arguments)
                value = time.perf_counter() - start
            elif verb == "call":
                value = what(held, *arguments)
            elif verb == "memory":
                value = {**machine.process_memory(), "before": before, "device": machine.device_memory()}
            elif verb == "reset_peak":
                machine.reset_peak_memory()
            answer = ("value", value)
        except ResamError as error:
            answer = ("error", str(error))
        except Exception:  # a defect: the parent shows where
            answer = ("defect", traceback.format_exc())
        _send(answers, answer)


def main() -> None:
    """Talk over what was stdout; whatever a library prints goes to stderr, not into the protocol."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
