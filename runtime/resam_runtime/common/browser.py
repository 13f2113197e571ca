"""Opening a page in the person's browser."""

from __future__ import annotations

import os
import sys
import threading


def open_browser(url: str) -> None:
    """Open the page, unless the only browser would be one inside this terminal. Returns at once."""
    import webbrowser

    if sys.platform.startswith("linux") and not {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} & set(os.environ):
        return
    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
