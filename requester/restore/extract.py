"""One file out of a backup, as it was then: contents only, put together from the backups of its chain."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from shadowset.requester.backup.chain import Link, links_of, open_chain
from shadowset.requester.backup.copy import OnBytes, copy_contents, open_source, transfer
from shadowset.requester.backup.manifest import REGULAR, BundleError, ManifestComponent, ManifestFile
from shadowset.requester.restore.puts import put_at
from shadowset.vss.codes import Code, VssError

NOWHERE = "the temporary file"


def holders(chain: list[Link], path: str) -> list[ManifestComponent]:
    """The components of the newest backup, as far as they succeeded, that have a file of this path."""
    found = []
    for component in chain[-1].manifest.components:
        files = chain[-1].files.get(component.key, [])
        if component.succeeded and any(file.path == path for file in files):
            found.append(component)
    return found


@contextmanager
def extracted(directory: str, path: str, on_bytes: OnBytes = lambda count: None) -> Iterator[int]:
    """A descriptor of a nameless file with the contents of ``path`` in the backup ``directory``, at its beginning.

    Each stored piece is checked against its digest. Errors: BundleError, VSS_E_OBJECT_NOT_FOUND; TargetError when there
    is no room for temporary files.
    """
    chain = open_chain(directory)
    found = holders(chain, path)
    if not found:
        sentence = f"{path} is in no component of {directory} that was backed up; 'shadowset backups' finds files"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, sentence)
    with tempfile.TemporaryFile(dir=_room()) as target:
        assemble(chain, found[0], path, target.fileno(), on_bytes)
        os.lseek(target.fileno(), 0, os.SEEK_SET)
        yield target.fileno()


def assemble(
    chain: list[Link], component: ManifestComponent, path: str, target: int, on_bytes: OnBytes = lambda count: None
) -> ManifestFile:
    """Write one file's contents into an empty file; the newest entry of it that has contents.

    Errors: BundleError, TargetError; VSS_E_OBJECT_NOT_FOUND when it is no regular file.
    """
    newest: ManifestFile | None = None
    for link, one in links_of(chain, component):
        newest = None if path in one.gone else newest
        for file in link.files.get(one.key, []):
            if file.path == path and file.kind == REGULAR:
                _put(link, file, target, on_bytes)
                newest = file
    if newest is None:
        sentence = f"{path} is no regular file in {chain[-1].directory}; restore it instead"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, sentence)
    return newest


def _room() -> str | None:
    """Temporary files may be large, and /tmp is often memory."""
    return os.environ.get("TMPDIR") or ("/var/tmp" if os.path.isdir("/var/tmp") else None)


def _put(link: Link, file: ManifestFile, target: int, on_bytes: OnBytes) -> None:
    path = f"{link.directory}/{file.stored}"
    try:
        source = open_source(path)
        try:
            if not stat.S_ISREG(os.fstat(source).st_mode):
                raise BundleError(f"{path} is no regular file; use another backup")
            digest = _copy(source, file, target, on_bytes)
        finally:
            os.close(source)
    except OSError as error:
        raise BundleError(f"{path} is missing or unreadable: {error.strerror}; use another backup") from error
    if digest != file.sha256:
        raise BundleError(f"{path} was altered after the backup (its digest differs); use another backup")


def _copy(source: int, file: ManifestFile, target: int, on_bytes: OnBytes) -> str:
    put = put_at(file, file.path)
    if not put.spans:
        os.ftruncate(target, 0)
        return copy_contents(source, target, NOWHERE, on_bytes)[1]
    digest = hashlib.sha256()
    for span in put.spans:
        transfer(source, span.source, target, span.target, span.length, NOWHERE, digest, on_bytes)
    if put.size is not None:
        os.ftruncate(target, put.size)
    return digest.hexdigest()
