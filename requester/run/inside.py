"""The first step of a command in its own mount namespace: the copies go over their volumes, and the command begins."""

from __future__ import annotations

import json
import os
import subprocess
import sys

CANNOT_MOUNT = 125
CANNOT_RUN = 126
NOT_FOUND = 127


def main(arguments: list[str]) -> int:
    """``PIPE MOUNTS COMMAND…``: a byte goes into the pipe when this begins. Exit statuses are those of ``env``."""
    os.write(int(arguments[0]), b"!")
    os.close(int(arguments[0]))
    mounts: dict[str, str] = json.loads(arguments[1])
    command = arguments[2:]
    directory = os.getcwd()
    os.chdir("/")
    for point, copy in mounts.items():
        done = subprocess.run(["mount", "--bind", copy, point], capture_output=True, text=True, check=False)
        if done.returncode:
            reason = " ".join(done.stderr.split())
            print(
                f"shadowset: the copy cannot be mounted at {point} ({reason}); the program was not run", file=sys.stderr
            )
            return CANNOT_MOUNT
    try:
        os.chdir(directory)  # again, by its name: the directory of the copy now
    except OSError as error:
        reason = f"{directory} is not in the copy ({error.strerror})"
        print(f"shadowset: {reason}; the program was not run; run from elsewhere", file=sys.stderr)
        return CANNOT_MOUNT
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        print(f"shadowset: {command[0]} is not there; install it or give its path", file=sys.stderr)
        return NOT_FOUND
    except OSError as error:
        print(f"shadowset: {command[0]} cannot be run: {error.strerror}", file=sys.stderr)
        return CANNOT_RUN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
