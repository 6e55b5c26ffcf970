"""Asking the person at the terminal, as the Windows tools do: one line of standard input, and no answer is no."""

from __future__ import annotations

import sys


def confirmed(question: str) -> bool:
    """Whether the answer to ``question (Y/N): [N]?`` begins with y. It may come through a pipe."""
    sys.stdout.write(f"{question} (Y/N): [N]? ")
    sys.stdout.flush()
    answer = sys.stdin.readline()
    sys.stdout.write("" if answer.endswith("\n") and sys.stdin.isatty() else "\n")
    return answer.strip().lower() in ("y", "yes")
