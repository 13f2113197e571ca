"""Around every call into GDAL: nothing on the console, no network but for a scene that lies there, little cache."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from resam_runtime.scenes.remote import redacted

_SAFE = {
    "GDAL_CACHEMAX": 64 << 20,
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO",
}
_local = threading.local()


@contextlib.contextmanager
def quiet_gdal(
    messages: list[str] | None = None, clean: Callable[[str], str] = redacted, **options: Any
) -> Iterator[None]:
    """Around every call into GDAL: what it says is added to `messages` (None: dropped), once each.

    clean: takes from it what is not to be shown. options: GDAL's own, besides; `RemoteFile.settings` are the ones that
    let it open an address, that of a scene.
    """
    import rasterio
    from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning

    for name in ("rasterio._env", "rasterio._err"):
        logger = logging.getLogger(name)
        if _collect not in logger.filters:
            logger.addFilter(_collect)
    for kind in (NotGeoreferencedWarning, NodataShadowWarning):  # a fine scene both, and what alpha means is our matter
        warnings.filterwarnings("ignore", category=kind)  # for good: catch_warnings is not for threads
    before = getattr(_local, "messages", None), getattr(_local, "clean", redacted)
    _local.messages, _local.clean = [] if messages is None else messages, clean
    try:
        with rasterio.Env(**{**_SAFE, **options}):
            yield
    finally:
        _local.messages, _local.clean = before


def _collect(record: logging.LogRecord) -> bool:
    messages: list[str] | None = getattr(_local, "messages", None)
    if messages is None:  # someone else's use of rasterio
        return True
    if record.levelno >= logging.WARNING:
        text = " ".join(record.getMessage().split())
        text = text.partition(" in ")[2] if text.startswith("CPLE_") else text
        text = _local.clean(text)[:200]
        if not any(known.endswith(text) for known in messages):
            # the same is said with the file's name and without
            messages[:] = [*(known for known in messages if not text.endswith(known)), text]
    return False
