"""Every setting of the coordinator: its name, value, default and the file that sets it.

    python -m shadowset.daemon.settings [--changed] [--json]

prints them; ``shadowset config show`` is this program.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from shadowset.daemon.access import Access
from shadowset.daemon.config import each_file
from shadowset.daemon.limits import Limits
from shadowset.vss.codes import VssError
from shadowset.vss.paths import Paths

DEFAULT = "default"
PLACES = {"runtime": "SHADOWSET_RUNTIME_DIR", "state": "SHADOWSET_STATE_DIR", "config": "SHADOWSET_CONFIG_DIR"}


@dataclass
class Setting:
    """One value; ``source`` is the default, a file, or a variable of the environment."""

    name: str
    value: int | str | list[str]
    default: int | str | list[str] | None
    source: str = DEFAULT

    @property
    def changed(self) -> bool:
        """Whether something sets it, also to what it is anyway."""
        return self.source != DEFAULT


def settings(paths: Paths, environment: dict[str, str]) -> list[Setting]:
    """All of them in a stable order. Errors: those of the coordinator's own start, for a file that it would refuse."""
    found = {each.name: each for each in _defaults(paths, environment)}
    for path, name, value in _set_by_files(paths):
        known = found.setdefault(name, Setting(name, value, None))
        if isinstance(known.value, list) and isinstance(value, list) and known.changed:
            known.value = sorted({*known.value, *value})  # lists of several files add up
        else:
            known.value = value
        known.source = path
    Access.load(paths.access)
    return list(found.values())


def _defaults(paths: Paths, environment: dict[str, str]) -> Iterator[Setting]:
    for name, variable in PLACES.items():
        source = f"environment {variable}" if variable in environment else DEFAULT
        yield Setting(f"directory.{name}", getattr(paths, name), getattr(Paths, name), source)
    defaults = Limits()
    for name in Limits.names():
        value: int = getattr(defaults, name)
        yield Setting(f"limit.{name}", value, value)
    yield Setting("revert.blocked-by", [], [])
    yield Setting("devices.group", "", "")


def _set_by_files(paths: Paths) -> Iterator[tuple[str, str, int | str | list[str]]]:
    for each in each_file(paths):
        for option in each.limits:
            name, _, number = option.partition("=")
            yield each.path, f"limit.{name}", int(number)
        for option in each.windows:
            name, _, number = option.partition("=")
            yield each.path, f"writer-window.{name}", int(number)
        if each.blockers:
            yield each.path, "revert.blocked-by", each.blockers
        if each.group:
            yield each.path, "devices.group", each.group


def _text(value: int | str | list[str]) -> str:
    return ", ".join(value) or "-" if isinstance(value, list) else str(value)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status."""
    options = argparse.ArgumentParser(prog="shadowset config show")
    options.add_argument("--changed", action="store_true")
    options.add_argument("--json", action="store_true")
    given = options.parse_args(arguments)
    try:
        found = settings(Paths.from_environment(os.environ), dict(os.environ))
    except VssError as error:
        print(f"shadowset: {error}", file=sys.stderr)
        return 1
    shown = [each for each in found if each.changed or not given.changed]
    if given.json:
        print(json.dumps([asdict(each) for each in shown], indent=2))
        return 0
    widths = [max((len(text) for text in column), default=0) for column in zip(*map(_cells, shown), strict=True)]
    for cells in map(_cells, shown):
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip())
    return 0


def _cells(each: Setting) -> tuple[str, str, str]:
    return each.name, _text(each.value), each.source


if __name__ == "__main__":
    sys.exit(main())
