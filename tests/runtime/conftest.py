"""What several tests of the runtime start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .chromium import Chromium
from .engines import write_engine

SIZE, RADIUS = 64, 6.0


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of `SIZE` px that marks a disc of `RADIUS` around each point; a module may have another."""
    path = tmp_path_factory.mktemp("engine") / "discs.resam"
    write_engine(path, SIZE, 8, RADIUS)
    return path
