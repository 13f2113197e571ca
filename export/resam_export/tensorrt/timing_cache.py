"""TensorRT's kernel timings, kept in a file from build to build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resam_runtime.common.errors import ResamError
from resam_runtime.common.files import atomic_write

from .log import BuildLog


class TimingCache:
    """Kernel timings in a file (None: kept nowhere): read before the first graph, written after each."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        try:
            self._data = path.read_bytes() if path is not None and path.exists() else b""
        except OSError as error:
            raise ResamError(f"{path}: the timing cache cannot be read ({error.strerror}); name another") from None
        self._foreign = bool(self._data)

    def load(self, config: Any, log: BuildLog) -> None:
        """Give the timings to a build. `ResamError` for a file that TensorRT does not take: it is not overwritten."""
        if self._path is None:
            return
        errors, warnings = log.errors.copy(), log.warnings.copy()
        timing = config.create_timing_cache(self._data)
        taken = timing is not None and config.set_timing_cache(timing, False)
        # TensorRT starts an empty cache in place of one that it cannot read, and says so in its log alone.
        complained = log.errors != errors or log.warnings != warnings
        if self._foreign and (complained or not taken):
            raise ResamError(f"{self._path}: not a timing cache of this TensorRT and GPU; remove it or name another")
        log.errors[:], log.warnings[:] = errors, warnings  # not this graph's

    def save(self, config: Any) -> None:
        timing = config.get_timing_cache() if self._path is not None else None
        if self._path is None or timing is None:
            return
        self._data, self._foreign = bytes(timing.serialize()), False
        with atomic_write(self._path) as temporary:
            temporary.write_bytes(self._data)
