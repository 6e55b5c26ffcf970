"""Images of shadow copies as qcow2 files: whole ones, and such as hold only what changed since another one.

qemu's own programs write them, so that everything that knows the format can read them. They are written from the
beginning to the end, and beside an image that is not finished a file says up to which offset it is in, durably; so
one that was interrupted is gone on with there, from the same copy.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from shadowset.requester.backup.copy import TargetError, writing
from shadowset.requester.jobs import overlay
from shadowset.requester.run.job import DIES_WITH_US
from shadowset.vss.codes import Code, VssError

OnBytes = Callable[[int], None]
PYTHONS = (sys.executable, "/usr/bin/python3")
SEGMENT = 256 << 20
"""Bytes of a whole image that one call of qemu-img writes."""
NOT_FOUND = 127
"""What setpriv ends with when there is no such program."""
LOCK_SECONDS = 60.0
"""How long an image is waited for that the qemu of an interrupted run still has."""


def progress_path(image: str) -> str:
    """The file that says how far the image is."""
    return f"{image}.progress"


def begun(image: str) -> int:
    """The offset from which an interrupted image is to be gone on with; 0 when it is to be begun anew."""
    try:
        with open(progress_path(image), encoding="ascii") as file:
            offset = int(file.read(20) or "0")
        if offset:
            _settle(image)
    except (OSError, ValueError, VssError):
        return 0
    return offset


def _settle(image: str) -> None:
    """Clusters that were taken and not used by then are given back. Errors: VssError for an image that is damaged."""
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return _run("qemu-img", "check", "-q", "-r", "leaks", image)
        except VssError as error:
            if "another process" not in error.message or time.monotonic() > end:
                raise
        time.sleep(0.1)


def write_whole(device: str, image: str, size: int, begin: int, on_bytes: OnBytes) -> None:
    """All of a device object, from the offset ``begin`` on; zeros take no room. Errors: VssError."""
    if not begin:
        _run("qemu-img", "create", "-q", "-f", "qcow2", image, str(size))
    on_bytes(begin)
    with writing(image), open(os.open(progress_path(image), os.O_WRONLY | os.O_CREAT, 0o600), "wb") as progress:
        for offset in range(begin, size, SEGMENT):
            length = min(SEGMENT, size - offset)
            part = f"driver=raw,offset={offset},size={length}"
            options = ("-n", "--target-is-zero", "-t", "writeback", "--image-opts", "--target-image-opts")
            source = f"{part},file.driver=file,file.filename={_escaped(device)}"
            target = f"{part},file.driver=qcow2,file.file.driver=file,file.file.filename={_escaped(image)}"
            _run("qemu-img", "convert", *options, source, target, about=image)
            _sync(image)
            overlay.note(progress.fileno(), offset + length)
            on_bytes(length)
        os.unlink(progress_path(image))


def _escaped(path: str) -> str:
    return path.replace(",", ",,")


def write_changed(
    device: str,
    image: str,
    base: str,
    size: int,
    ranges: Sequence[tuple[int, int]],
    begin: int,
    on_bytes: OnBytes,
) -> None:
    """Only these ranges (offset, length), in order; all else is as in ``base``, a path relative to the image's
    directory. What is before ``begin`` is there already. Errors: VssError.
    """
    if not begin:
        _run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", image, str(size))
    left = [(max(offset, begin), offset + length) for offset, length in ranges if offset + length > begin]
    on_bytes(sum(length for _, length in ranges) - sum(end - start for start, end in left))
    python = _python_with_libnbd()
    command = [*DIES_WITH_US, python, os.path.abspath(overlay.__file__), image, device, progress_path(image)]
    with tempfile.TemporaryFile("w+") as told:
        told.writelines(f"{start} {end - start}\n" for start, end in left)
        told.seek(0)
        _follow(command, told.fileno(), image, on_bytes)
    with writing(image):
        _sync(image)
        os.unlink(progress_path(image))


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
            raise _failure(image, "could not be written", errors.read())


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


def _run(*command: str, about: str = "") -> None:
    whole = [*DIES_WITH_US, *command]
    done = subprocess.run(whole, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == NOT_FOUND:
        sentence = f"{command[0]} is not there; install it (apt install qemu-utils)"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, sentence)
    if done.returncode:
        why = f"{command[0]} {command[1]} failed with {done.returncode}"
        raise _failure(about or command[-1], why, done.stderr)


def _failure(image: str, what: str, words: str) -> VssError:
    why = " ".join(words.split())[-300:]
    full = "No space left" in why or "quota exceeded" in why
    code = Code.VSS_E_INSUFFICIENT_STORAGE if full else Code.VSS_E_UNEXPECTED
    return TargetError(code, f"{image}: {what}: {why}; see to it and start again")


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
