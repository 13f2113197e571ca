"""For all tests."""

from __future__ import annotations

import signal

# What a shell puts into the background ignores Ctrl-C, and so would the commands that tests start and stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
