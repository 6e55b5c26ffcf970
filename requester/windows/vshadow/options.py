"""vshadow's command line: one command or a list of volumes, and optional flags. Pure.

Flags begin with ``-`` (a ``/`` begins a path) and are in any case; values follow ``=``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from shadowset.requester.cli import UsageError
from shadowset.vss.enums import Attribute

COMMANDS = {
    "i": "import a transportable set by its document",
    "q": "show all shadow copies",
    "qx": "show the shadow copies of a set",
    "s": "show a shadow copy",
    "da": "delete all shadow copies",
    "do": "delete the oldest shadow copy, with =VOLUME of this volume",
    "dx": "delete the shadow copies of a set",
    "ds": "delete a shadow copy",
    "b": "make read-only volumes of a set, =SET,DIRECTORY",
    "bw": "make writable volumes of a set, =SET,DIRECTORY",
    "bex": "make volumes of a set, with flags, =SET,DIRECTORY",
    "el": "expose a shadow copy on an empty directory, =ID,DIRECTORY",
    "er": "expose a shadow copy as a share",
    "ws": "show the writers and their state",
    "wm": "show what the writers have",
    "wm2": "show what the writers have, with every file set",
    "wm3": "show the writers' documents as XML",
    "r": "tell the writers of a restore, by the document of a backup",
    "rs": "show whom a restore would concern",
    "revert": "take a volume back to a shadow copy",
    "addresync": "name a volume whose disk is to be resynchronized",
    "resync": "resynchronize disks",
}
FLAGS = {
    "p": "persistent shadow copies",
    "nw": "without writers",
    "nar": "without auto-recovery",
    "tr": "with TxF recovery",
    "ad": "differential copies",
    "ap": "mirrors split off",
    "scsf": "client-accessible shadow copies",
    "t": "transportable; save the backup components document to this file",
    "bc": "save the backup components document to this file",
    "wi": "a writer or component that must be in the set; may be repeated",
    "wx": "a writer or component that must not; may be repeated",
    "script": "write a shell script with variables of the set to this file",
    "exec": "run this program or shell script while the shadow copies are there",
    "wait": "wait for Enter at the end",
    "tracing": "say more",
    "mask": "for -bex",
    "rw": "for -bex: writable",
    "forcerevert": "for -bex: file systems keep their UUIDs",
    "norevert": "for -bex: file systems get UUIDs of their own, as without it",
    "revertsig": "for -resync",
    "novolcheck": "for -resync",
}
VALUED = ("i", "qx", "s", "dx", "ds", "b", "bw", "el", "er", "r", "rs", "revert", "addresync", "resync")
VALUED_FLAGS = ("t", "bc", "wi", "wx", "script", "exec")
MAYBE_VALUED = ("do", "bex")
REPEATED = ("wi", "wx")
ALLOWED = {
    "create": frozenset(FLAGS) - {"mask", "rw", "forcerevert", "norevert", "revertsig", "novolcheck"},
    "i": frozenset({"exec", "wait", "tracing"}),
    "r": frozenset({"wi", "wx", "exec", "tracing"}),
    "rs": frozenset({"wi", "wx", "exec", "tracing"}),
    "bex": frozenset({"mask", "rw", "forcerevert", "norevert"}),
    "resync": frozenset({"revertsig", "novolcheck"}),
}
EXCLUSIVE = (
    ("ad", "ap"),
    ("forcerevert", "norevert"),
    ("t", "bc"),
    ("nw", "wi"),
    ("nw", "wx"),
    ("nw", "bc"),
    ("nw", "t"),
)
_ATTRIBUTES = {
    "p": Attribute.PERSISTENT | Attribute.NO_AUTO_RELEASE,
    "nw": Attribute.NO_WRITERS,
    "nar": Attribute.NO_AUTORECOVERY,
    "tr": Attribute.TXF_RECOVERY,
    "ad": Attribute.DIFFERENTIAL,
    "ap": Attribute.PLEX,
    "scsf": Attribute.CLIENT_ACCESSIBLE | Attribute.PERSISTENT | Attribute.NO_AUTO_RELEASE,
    "t": Attribute.TRANSPORTABLE,
}


@dataclass
class Options:
    """One command (``create`` where none is named), its value, volumes, and the flags with their values."""

    command: str = "create"
    value: str = ""
    volumes: list[str] = field(default_factory=list)
    flags: dict[str, list[str]] = field(default_factory=dict)

    def has(self, flag: str) -> bool:
        """Whether a flag was given."""
        return flag in self.flags

    def of(self, flag: str) -> str:
        """A flag's value, or ""."""
        return self.flags.get(flag, [""])[0]

    @property
    def context(self) -> int:
        """The context and modifiers that the flags ask for."""
        bits = 0
        for flag in self.flags:
            bits |= _ATTRIBUTES.get(flag, 0)
        return int(bits)


def parse_options(arguments: Sequence[str]) -> Options:
    """Errors: UsageError."""
    options = Options()
    for argument in arguments:
        if argument.startswith("-"):
            _take(options, argument)
        else:
            options.volumes.append(argument)
    _check(options)
    return options


def _take(options: Options, argument: str) -> None:
    name, equals, value = argument[1:].partition("=")
    name = name.lower()
    _check_value(name, bool(equals), value)
    if name in FLAGS:
        values = options.flags.setdefault(name, [])
        if values and name not in REPEATED:
            raise UsageError(f"-{name} is given twice")
        values.append(value)
    elif options.command == "addresync" and name == "resync":
        options.command, options.value = name, value
    elif options.command != "create":
        raise UsageError(f"-{name} does not go together with -{options.command}")
    else:
        options.command, options.value = name, value


def _check_value(name: str, equals: bool, value: str) -> None:
    if name not in COMMANDS and name not in FLAGS:
        raise UsageError(f"there is no flag -{name}; 'vshadow -?' lists them")
    needs = name in VALUED or name in VALUED_FLAGS
    if name in MAYBE_VALUED:
        return
    if needs != equals or (equals and not value):
        raise UsageError(f"-{name} takes a value, as -{name}=…" if needs else f"-{name} takes no value")


def _check(options: Options) -> None:
    for flag in options.flags:
        if flag not in ALLOWED.get(options.command, frozenset()):
            raise UsageError(f"-{flag} does not go together with -{options.command}")
    for one, other in EXCLUSIVE:
        if options.has(one) and options.has(other):
            raise UsageError(f"-{one} and -{other} exclude each other")
    if options.volumes and options.command != "create":
        raise UsageError(f"-{options.command} takes no volumes")
    if options.command == "create" and not options.volumes:
        raise UsageError("name the volumes to make shadow copies of; 'vshadow -?' shows the usage")


def usage() -> str:
    """All commands and flags."""
    lines = ["usage: vshadow [FLAGS] VOLUME…    make a shadow copy set", "       vshadow [FLAGS] COMMAND", ""]
    for title, table, valued in (("commands", COMMANDS, VALUED), ("flags", FLAGS, VALUED_FLAGS)):
        lines.append(f"{title}:")
        lines += [f"  {'-' + name + ('=…' if name in valued else ''):<14} {text}" for name, text in table.items()]
    return "\n".join(lines)
