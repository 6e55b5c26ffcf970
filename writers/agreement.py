"""After a restore: whether an index goes with the database of its application, which alone can say so."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from shadowset.vss.codes import Code, VssError

FAILED = Code.VSS_E_WRITERERROR_RECOVERY_FAILED
LAST_WORDS = 300


def check_agreement(command: list[str], index: str, told: Mapping[str, str], seconds: float) -> None:
    """Asks ``command``, which finds ``told`` and ``SHADOWSET_INDEX`` in its environment and ends with status 0 for yes.

    Errors: VSS_E_WRITERERROR_RECOVERY_FAILED with the command's last words.
    """
    try:
        done = subprocess.run(
            command, env={**os.environ, **told, "SHADOWSET_INDEX": index}, stdin=subprocess.DEVNULL, timeout=seconds,
            capture_output=True, text=True, errors="replace", check=False, cwd="/",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VssError(FAILED, f"{command[0]} cannot say whether {index} agrees with its database: {error}") from error
    if done.returncode:
        words = " ".join((done.stdout + done.stderr).split())[-LAST_WORDS:]
        message = f"the index {index} and its database are apart ({words}); index again what is missing"
        raise VssError(FAILED, message)
