"""Putting proposals in place: a new file each, never over one that is there."""

from __future__ import annotations

import os
from collections.abc import Iterable

from shadowset.requester.detect.applications import Proposal
from shadowset.vss.codes import Code, VssError


def write(proposals: Iterable[Proposal], directory: str) -> dict[str, bool]:
    """Paths, and whether the file is new; one that was there stays as it is. Errors: VssError."""
    done = {}
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
        for proposal in proposals:
            if proposal.text:
                path = f"{directory}/{proposal.file}"
                done[path] = _create(path, proposal.text)
    except OSError as error:
        message = f"{error.filename or directory} cannot be written ({error.strerror}); run it as root"
        raise VssError(Code.E_ACCESSDENIED, message) from error
    return done


def _create(path: str, text: str) -> bool:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    return True
