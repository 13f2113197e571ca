"""When a scene was taken, as ISO 8601 in UTC: 2021-05-12T10:20:31Z."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

_TIFF = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d:\d\d:\d\d)")


def utc(text: Any) -> str | None:
    """A date and time of a catalogue (RFC 3339) or of a TIFF (`2021:05:12 10:20:31`), to the millisecond; None for what
    is neither. One without a zone counts as UTC."""
    if not isinstance(text, str):
        return None
    text = _TIFF.sub(r"\1-\2-\3T\4", text.strip())
    text = re.sub(r"(\.\d{1,6})\d*", lambda match: match[1].ljust(7, "0"), text)  # Python 3.10 wants all six digits
    try:
        moment = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None
    written = moment.isoformat(timespec="milliseconds" if moment.microsecond >= 1000 else "seconds")
    return written.replace("+00:00", "Z")


def date_of(dataset: Any) -> str | None:
    """The date that an open rasterio dataset holds: when its image was taken, else when the TIFF says it was made."""
    taken: Mapping[str, str] = dataset.tags(ns="IMAGERY")
    return utc(taken.get("ACQUISITIONDATETIME")) or utc(dataset.tags().get("TIFFTAG_DATETIME"))
