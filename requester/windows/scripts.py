"""Running a file of the administrator's between two steps of a backup or restore."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

from shadowset.vss.codes import Code, VssError


class ScriptFailed(VssError):
    """A script has failed, and what was to come after it is not done."""


def run_file(name: str, environment: Mapping[str, str]) -> None:
    """Run a program, or a shell script, without parameters and with these variables beside those there are.

    Errors: ScriptFailed for a status other than 0.
    """
    path = os.path.abspath(name)
    if not os.path.isfile(path):
        raise ScriptFailed(Code.E_INVALIDARG, f"{path} is no file to run; put parameters into a script")
    command = [path] if os.access(path, os.X_OK) else ["/bin/sh", path]
    sys.stdout.flush()
    try:
        status = subprocess.run(command, env={**os.environ, **environment}, check=False).returncode
    except OSError as error:
        raise ScriptFailed(Code.E_INVALIDARG, f"{path} cannot be run: {error.strerror}") from error
    if status:
        raise ScriptFailed(Code.VSS_E_UNEXPECTED, f"{path} ended with status {status}; nothing after it is done")
