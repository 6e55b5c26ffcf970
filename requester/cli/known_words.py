"""The parser of the command line: argparse's, with a better word for a word that it does not know."""

from __future__ import annotations

import argparse
import difflib
from typing import Any


class Parser(argparse.ArgumentParser):
    """Parsers of commands below it are of the same kind."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Called by argparse for each word that is one of several."""
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        near = difflib.get_close_matches(str(value), known, 1)
        step = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"
        raise argparse.ArgumentError(action, f"there is no {value!r}; {step}")
