"""What all tests share."""

from __future__ import annotations

import signal

# A runner in the background of a shell ignores SIGINT, and programs that it starts would never see Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
