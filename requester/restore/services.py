"""Stopping and starting the service that a writer names, by systemctl."""

from __future__ import annotations

import re
import subprocess

from shadowset.vss.codes import Code, VssError

UNIT = re.compile(r"[A-Za-z0-9:_.@\\][A-Za-z0-9:_.@\\-]*", re.ASCII)
SECONDS = 300


def stop(unit: str) -> None:
    """Errors: VSS_E_BAD_STATE with what systemctl said."""
    _systemctl("stop", unit)


def start(unit: str) -> None:
    """Errors: as ``stop``."""
    _systemctl("start", unit)


def _systemctl(verb: str, unit: str) -> None:
    if not UNIT.fullmatch(unit):
        raise VssError(Code.VSS_E_BAD_STATE, f"its writer names the service {unit[:60]!r}, which is no name of a unit")
    try:
        done = subprocess.run(
            ["systemctl", verb, "--", unit], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = f"no answer within {SECONDS} s" if isinstance(error, subprocess.TimeoutExpired) else str(error.strerror)
        raise VssError(Code.VSS_E_BAD_STATE, f"systemctl cannot {verb} service {unit}: {why}") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        raise VssError(Code.VSS_E_BAD_STATE, f"service {unit} does not {verb}: {said[-1]}")
