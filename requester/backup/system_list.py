"""The host's own list of files that are not backed up (VSS's FilesNotToBackup), for applications without a writer.

Each entry has a name and files, as ``/var/cache/app/*.tmp`` or ``/var/cache/app/* /s`` with all directories beneath. An
entry with the name of a writer that takes part counts for nothing: then the writer says what is left out.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection
from typing import Any

from shadowset.vss.codes import Code, VssError
from shadowset.vss.filespec import is_absolute
from shadowset.vss.metadata import ExcludedFiles

BENEATH = " /s"


def files_not_to_backup(path: str, writers: Collection[str]) -> tuple[ExcludedFiles, ...]:
    """What the list at ``path`` leaves out beside these writers (names); nothing when there is no list.

    Errors: E_INVALIDARG for a list that cannot be used, in a sentence that names it.
    """
    found: list[ExcludedFiles] = []
    for name, files in _read(path).items():
        if not isinstance(files, list) or not all(isinstance(each, str) for each in files):
            raise _refuse(path, f'entry {name!r} has to be a list of texts such as "/var/cache/app/* /s"')
        found += [_excluded(path, each) for each in files if name not in writers]
    return tuple(found)


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _refuse(path, f"it cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refuse(path, f"it is not TOML: {error}") from error


def _excluded(path: str, text: str) -> ExcludedFiles:
    recursive = text.endswith(BENEATH)
    directory, filespec = os.path.split(text.removesuffix(BENEATH).strip())
    if not is_absolute(directory) or not filespec:
        raise _refuse(path, f"{text!r} names no files; write an absolute directory, a slash and a pattern for names")
    return ExcludedFiles(directory, filespec, recursive)


def _refuse(path: str, sentence: str) -> VssError:
    return VssError(Code.E_INVALIDARG, f"{path}: {sentence}")
