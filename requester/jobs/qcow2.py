"""Images of shadow copies as qcow2 files: whole ones, and such as hold only what changed since another one.

qemu's own programs write them, so that everything that knows the format can read them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence

from shadowset.requester.jobs import overlay
from shadowset.requester.run.job import DIES_WITH_US
from shadowset.vss.codes import Code, VssError

OnBytes = Callable[[int], None]
PYTHONS = (sys.executable, "/usr/bin/python3")


def write_whole(device: str, image: str) -> None:
    """All of a device object; zeros take no room. Errors: VssError."""
    _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-t", "writeback", device, image)
    _sync(image)


def write_changed(
    device: str, image: str, base: str, size: int, ranges: Sequence[tuple[int, int]], on_bytes: OnBytes
) -> None:
    """Only these ranges (offset, length); all else is as in ``base``, a path relative to the image's directory.

    Errors: VssError.
    """
    _run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", image, str(size))
    python = _python_with_libnbd()
    command = [*DIES_WITH_US, python, os.path.abspath(overlay.__file__), image, device]
    with tempfile.TemporaryFile("w+") as told:
        told.writelines(f"{offset} {length}\n" for offset, length in ranges)
        told.seek(0)
        _follow(command, told.fileno(), image, on_bytes)
    _sync(image)


def _follow(command: list[str], stdin: int, image: str, on_bytes: OnBytes) -> None:
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        before = 0
        assert process.stdout is not None
        for line in process.stdout:
            on_bytes(int(line) - before)
            before = int(line)
        if process.wait():
            errors.seek(0)
            why = " ".join(errors.read().split())[-300:]
            raise VssError(Code.VSS_E_UNEXPECTED, f"{image} could not be written: {why}; see to it and start again")


def check(image: str) -> str:
    """What qemu-img finds wrong with the image; "" for nothing."""
    try:
        _run("qemu-img", "check", "-q", image)
    except VssError as error:
        return error.message
    return ""


def _python_with_libnbd() -> str:
    for python in PYTHONS:
        try:
            if not subprocess.run([python, "-c", "import nbd"], capture_output=True, check=False).returncode:
                return python
        except OSError:
            continue
    sentence = "incremental images need libnbd's Python bindings; install them (apt install python3-libnbd)"
    raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, sentence)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        sentence = f"{command[0]} is not there; install it (apt install qemu-utils)"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, sentence) from None
    if done.returncode:
        why = " ".join(done.stderr.split())[-300:]
        raise VssError(Code.VSS_E_UNEXPECTED, f"{command[0]} on {command[-1]} failed with {done.returncode}: {why}")


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
