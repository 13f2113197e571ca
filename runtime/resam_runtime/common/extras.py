"""Packages that the base install leaves out: whether one is there, and what to say where it is needed and is not."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

from resam_runtime.common.errors import ResamError

_OURS = ("resam", "resam_benchmarks", "resam_export", "resam_runtime")


@contextlib.contextmanager
def needs_extra(what: str, extras: str, otherwise: str = "") -> Iterator[None]:
    """A package that the block imports and that is not installed becomes a `ResamError` of one line.

    what: who needs it, as the user calls it. extras: of this distribution, such as "train,export". otherwise: another
    way out, put behind the command that installs them. A missing module of our own passes through: it is a defect, and
    nothing to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package in _OURS:
            raise
        raise _lacking(what, package, extras, otherwise) from None


def check_installed(what: str, extras: str, *packages: str) -> None:
    """`ResamError`, as from `needs_extra`, for the first of the packages that is not installed; imports none of them.

    For what is imported in a process of its own, and must not take memory in this one.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise _lacking(what, package, extras)


def has_rasterio() -> bool:
    """Whether georeferenced scenes can be read here (`pip install resam[geo]`)."""
    try:
        import rasterio  # noqa: F401
    except ImportError:
        return False
    return True


def _lacking(what: str, package: str, extras: str, otherwise: str = "") -> ResamError:
    return ResamError(f"{what}: {package} is not installed; pip install 'resam[{extras}]'{otherwise}")
