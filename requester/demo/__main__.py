"""``python -m shadowset.requester.demo``: exit status 0 when every check held, 1 when not, 2 when it cannot run."""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
import time

from shadowset.requester.demo.story import Story
from shadowset.requester.stage import MissingError, Stage, StageError, check_machine

DESCRIPTION = """Make two volumes on image files, let an application work on them, copy, back up, destroy and restore
them, and check every step. Needs root and a minute or two; it works in directories of its own, which it removes."""


def interrupt(*_: object) -> None:
    """Let SIGTERM take the same way out as Ctrl-C."""
    raise KeyboardInterrupt


def check_farm() -> None:
    """Errors: MissingError."""
    if importlib.util.find_spec("tantivy") is None:
        raise MissingError("the search index of the demonstration farm needs tantivy; pip install shadowset[farm]")


def main() -> int:
    """Play the demonstration and take everything away again."""
    argparse.ArgumentParser(prog="python -m shadowset.requester.demo", description=DESCRIPTION).parse_args()
    try:
        check_machine()
        check_farm()
    except MissingError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, interrupt)
    started = time.monotonic()
    stage = Stage()
    status = 0
    try:
        Story(stage).play()
    except StageError as error:
        print(f"\nThe demonstration failed: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        status = 130
    finally:
        problems = stage.close()
    for problem in problems:
        print(f"demo: {problem}", file=sys.stderr)
    if status == 0 and not problems:
        print(f"\nAll checks held. Everything is cleaned up. {time.monotonic() - started:.0f} seconds.")
    return status or (1 if problems else 0)


if __name__ == "__main__":
    sys.exit(main())
