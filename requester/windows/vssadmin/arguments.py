"""vssadmin's command line: a verb, an object, and switches ``/name`` or ``/name=value`` in any case and order. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shadowset.requester.cli import UsageError
from shadowset.requester.windows.words import unbraced

VALUES = ("for", "on", "maxsize", "shadow", "set", "autoretry")
FLAGS = ("all", "oldest", "quiet", "forcedismount", "any")


@dataclass(frozen=True)
class Switches:
    """What was given; values are "" and flags False where they were not."""

    values: Mapping[str, str] = field(default_factory=dict)
    flags: frozenset[str] = frozenset()

    def value(self, name: str) -> str:
        """A switch's value, or ""."""
        return self.values.get(name, "")

    def guid(self, name: str) -> str:
        """An id, without the braces that Windows puts around it."""
        return unbraced(self.value(name))

    def need(self, *names: str) -> None:
        """Errors: UsageError when one of these switches is not given."""
        for name in names:
            if not self.value(name):
                raise UsageError(f"/{name}= is missing; 'vssadmin /?' shows what each command takes")


def parse_switches(arguments: Sequence[str], allowed: Sequence[str]) -> Switches:
    """The switches of one command. Errors: UsageError for another switch, a repeated one or a missing value."""
    values: dict[str, str] = {}
    flags: set[str] = set()
    for argument in arguments:
        name, equals, value = argument.lstrip("/-").partition("=")
        name = name.lower()
        if argument[:1] not in "/-" or name not in allowed:
            raise UsageError(f"{argument!r} does not belong here; 'vssadmin /?' shows what each command takes")
        if (name in FLAGS) == bool(equals) or (equals and not value):
            raise UsageError(f"/{name} takes {'no value' if name in FLAGS else 'a value, as /' + name + '=…'}")
        if name in values or name in flags:
            raise UsageError(f"/{name} is given twice")
        if equals:
            values[name] = value
        else:
            flags.add(name)
    return Switches(values, frozenset(flags))
