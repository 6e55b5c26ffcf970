"""The host's lists of files that are not backed up, or not wanted in shadow copies, for applications without a writer.

Each entry has a name and files, as ``/var/cache/app/*.tmp`` or ``/var/cache/app/* /s`` with all directories beneath. An
entry with the name of a writer that takes part counts for nothing: then the writer says what is left out.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection
from typing import Any

from shadowset.vss.codes import Code, VssError
from shadowset.vss.filespec import is_absolute
from shadowset.vss.metadata import ExcludedFiles

BENEATH = " /s"


def listed_files(path: str, entries: dict[str, Any], writers: Collection[str]) -> tuple[ExcludedFiles, ...]:
    """What the ``entries`` of the list at ``path`` name beside these writers (names).

    Errors: E_INVALIDARG for entries that cannot be used, in a sentence that names the list.
    """
    found: list[ExcludedFiles] = []
    for name, files in entries.items():
        if not isinstance(files, list) or not all(isinstance(each, str) for each in files):
            raise refuse(path, f'entry {name!r} has to be a list of texts such as "/var/cache/app/* /s"')
        found += [_excluded(path, each) for each in files if name not in writers]
    return tuple(found)


def _excluded(path: str, text: str) -> ExcludedFiles:
    recursive = text.endswith(BENEATH)
    directory, filespec = posixpath.split(text.removesuffix(BENEATH).strip())
    if not is_absolute(directory) or not filespec:
        raise refuse(path, f"{text!r} names no files; write an absolute directory, a slash and a pattern for names")
    return ExcludedFiles(directory, filespec, recursive)


def refuse(path: str, sentence: str) -> VssError:
    """A list that cannot be used as it stands, as an error."""
    return VssError(Code.E_INVALIDARG, f"{path}: {sentence}")
