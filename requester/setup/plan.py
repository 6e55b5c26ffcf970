"""All that belongs on a host, in the order in which it is made."""

from __future__ import annotations

import importlib.resources
import os
import sys

from shadowset.requester.setup.steps import AnyStep, Directory, Enabled, File, Group
from shadowset.requester.setup.tree import Tree
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths

GROUP = "shadowset"
UNITS = "/etc/systemd/system"
PACKAGED_UNITS = ("/usr/lib/systemd/system", "/lib/systemd/system")
UNIT_KINDS = (".service", ".socket", ".target", ".slice", ".timer", ".mount", ".path")
ENABLED = ("shadowsetd.service", "shadowset-restore-pending.service", "shadowset-unexpose.service")
EXAMPLE_BIN = "/opt/shadowset/bin"

SETTINGS = """\
# Settings of shadowsetd; restart it after a change. 'shadowset config show' prints all of them with their values and
# where each comes from. Files in shadowsetd.d/ are read after this one, in the order of their names; later ones win.

[limit]
# freeze_window_ms = 60000

[writer-window]
# "5c5bd54e-8a0a-4ae5-a0a0-7a6cbb3d9f0e" = 90000
"""


def units() -> dict[str, str]:
    """Name and text of each unit that Shadowset has."""
    folder = importlib.resources.files("shadowset") / "systemd"
    found = [each for each in folder.iterdir() if each.name.endswith(UNIT_KINDS)]
    return {each.name: each.read_text(encoding="utf-8") for each in sorted(found, key=lambda each: each.name)}


def programs_here() -> str:
    """The directory of this installation's programs."""
    return os.path.dirname(os.path.abspath(sys.argv[0] if _is_program(sys.argv[0]) else sys.executable))


def _is_program(path: str) -> bool:
    return os.path.basename(path) == "shadowset" and os.path.isabs(path) and os.access(path, os.X_OK)


def plan(tree: Tree, paths: Paths, programs: str, writers: list[str]) -> list[AnyStep]:
    """The steps. ``programs`` is where the units find them; ``writers`` are users whose processes may be writers.

    Units that a package brought are left to it.
    """
    packaged = any(tree.exists(f"{directory}/shadowsetd.service") for directory in PACKAGED_UNITS)
    texts = {} if packaged else units()
    steps: list[AnyStep] = [
        *_directories(paths),
        Group(GROUP),
        File.of(paths.daemon_config, SETTINGS),
        *(_writer_rule(tree, paths, user) for user in writers),
        *(File.of(f"{UNITS}/{name}", text.replace(EXAMPLE_BIN, programs)) for name, text in texts.items()),
        *(Enabled(unit) for unit in ENABLED if tree.has("systemctl")),
    ]
    return [*_missing_parents(tree, steps), *steps]


def _missing_parents(tree: Tree, steps: list[AnyStep]) -> list[AnyStep]:
    """The directories above all others that a bare tree lacks, outermost first."""
    planned = {step.path for step in steps if isinstance(step, Directory)}
    above: set[str] = set()
    for step in steps:
        path = os.path.dirname(step.path) if isinstance(step, Directory | File) else "/"
        while path not in ("/", *planned, *above) and not tree.exists(path):
            above.add(path)
            path = os.path.dirname(path)
    return [Directory(path, parent=True) for path in sorted(above)]


def _directories(paths: Paths) -> list[AnyStep]:
    """The state directory first, since the record of what was made lies there."""
    private = [Directory(path, 0o700) for path in (paths.state, paths.storage)]
    drop_ins = (paths.daemon_drop_ins, paths.access, paths.express_writers, paths.jobs, f"{paths.config}/writers.d")
    return [*private, *(Directory(path) for path in (paths.config, *drop_ins))]


def _writer_rule(tree: Tree, paths: Paths, user: str) -> File:
    names = [line.split(":")[0] for line in tree.read("/etc/passwd").splitlines()]
    if user not in names:
        raise VssError(Code.E_INVALIDARG, f"there is no user {user!r} on this host; make the user first")
    text = f'# This user\'s processes may be writers.\n[[rule]]\nuser = "{user}"\naccess = "writer"\n'
    return File.of(f"{paths.access}/writer-{user}.toml", text)
