"""The first step of a command in its own mount namespace: the copies go over their volumes, and the command begins.

As root, or as any user in a user namespace of its own, where this process may mount and the command no more.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys

from shadowset.vss.mountinfo import Mount, parse_mountinfo

CANNOT_MOUNT = 125
CANNOT_RUN = 126
NOT_FOUND = 127

MS_BIND, MS_REC, MS_SLAVE = 0x1000, 0x4000, 1 << 19
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
LIBC = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, flags: int) -> None:
    """mount(2). Errors: OSError."""
    if LIBC.mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(flags), None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def cut_off() -> None:
    """What is mounted here stays here; what is unmounted elsewhere goes here too. Errors: OSError.

    In a chroot whose root is no mount, there is none above all others that could be asked for it, so each is asked.
    """
    try:
        mount("none", "/", MS_REC | MS_SLAVE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        for each in read_mounts():
            cut_off_one(each.path)


def cut_off_one(path: str) -> None:
    """What another mount hides cannot be reached, and is in nobody's way. Errors: OSError."""
    try:
        mount("none", path, MS_SLAVE)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def spreads(point: str) -> bool:
    """Whether something mounted there would show up elsewhere."""
    above = [each for each in read_mounts() if f"{point}/".startswith(f"{each.path.rstrip('/')}/")]
    deepest = max((len(each.path) for each in above), default=0)
    return any(each.shared for each in [each for each in above if len(each.path) == deepest][-1:])


def read_mounts() -> list[Mount]:
    """The mounts of this namespace, in the order in which they hide each other."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())


def cover(mounts: dict[str, str]) -> None:
    """Mount the copies over their volumes, outer ones first. Errors: OSError."""
    cut_off()
    for point, copy in mounts.items():
        if spreads(point):
            raise OSError(errno.EPERM, "it would be seen from outside", point)
        mount(copy, point, MS_BIND)


def main(arguments: list[str]) -> int:
    """``PIPE MOUNTS COMMAND…``: a byte goes into the pipe when this begins. Exit statuses are those of ``env``."""
    os.write(int(arguments[0]), b"!")
    os.close(int(arguments[0]))
    directory = os.getcwd()
    os.chdir("/")
    try:
        cover(json.loads(arguments[1]))
    except OSError as error:
        reason = f"the copy cannot be mounted at {error.filename} ({error.strerror})"
        print(f"shadowset: {reason}; the program was not run", file=sys.stderr)
        return CANNOT_MOUNT
    try:
        os.chdir(directory)  # again, by its name: the directory of the copy now
    except OSError as error:
        reason = f"{directory} is not in the copy ({error.strerror})"
        print(f"shadowset: {reason}; the program was not run; run from elsewhere", file=sys.stderr)
        return CANNOT_MOUNT
    LIBC.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    return execute(arguments[2:])


def execute(command: list[str]) -> int:
    """Become the command; returns only when that fails."""
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
