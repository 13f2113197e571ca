"""`resam-export` in a process that has the CPU compiler, as if a GPU were there: `run.py REPORT.json ARGUMENT...`

REPORT gets the modules that were imported. Two things are made up: the GPU, and, where the environment names them,
a warning of TensorRT's (RESAM_TEST_WARNING) or a Ctrl-C at the first step of the build (RESAM_TEST_INTERRUPT).
RESAM_TEST_SCENES is how many scenes an export is verified on, RESAM_TEST_TRACES the folder of what tests have traced.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from resam_export import cli
from resam_export.tensorrt import build, log, phases
from resam_runtime.common.gpu import GPU

NAME, CAPABILITY = "no GPU, compiled on a CPU", "8.7"


def _warn(trt: Any, kept: log.BuildLog) -> Any:
    logger = log.trt_logger(trt, kept)
    logger.log(trt.ILogger.Severity.WARNING, os.environ["RESAM_TEST_WARNING"])
    return logger


def _interrupt(trt: Any, open_phases: Any, cancelled: Any) -> Any:
    def interrupted() -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return bool(cancelled())

    return phases.trt_monitor(trt, open_phases, interrupted)


if __name__ == "__main__":
    build.find_gpu = lambda: GPU(NAME, CAPABILITY)
    if "RESAM_TEST_WARNING" in os.environ:
        build.trt_logger = _warn
    if "RESAM_TEST_INTERRUPT" in os.environ:
        build.trt_monitor = _interrupt
    if "RESAM_TEST_SCENES" in os.environ:
        from resam_export import engine

        engine.default_count = lambda *about: int(os.environ["RESAM_TEST_SCENES"])
    with contextlib.ExitStack() as stack:
        if "RESAM_TEST_TRACES" in os.environ:
            sys.path.append(str(Path(__file__).parents[3]))
            from tests.shared import Shared, traced_once

            stack.enter_context(traced_once(Shared(Path(os.environ["RESAM_TEST_TRACES"]))))
        try:
            cli.export.main(sys.argv[2:])
        finally:
            Path(sys.argv[1]).write_text(json.dumps(sorted(sys.modules)))
