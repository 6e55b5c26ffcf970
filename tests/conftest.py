"""What all tests share."""

from __future__ import annotations

import signal

import hypothesis

# A runner in the background of a shell ignores SIGINT, and programs that it starts would never see Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# On a busy machine any step may take long; what hangs is caught by the time-out of the test.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")
