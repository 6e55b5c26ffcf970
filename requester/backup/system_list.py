"""The host's own list of files that are not backed up (VSS's FilesNotToBackup)."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from typing import Any

from shadowset.vss.metadata import ExcludedFiles
from shadowset.vss.system_list import listed_files, refuse


def files_not_to_backup(path: str, writers: Collection[str]) -> tuple[ExcludedFiles, ...]:
    """What the list at ``path`` leaves out beside these writers (names); nothing when there is no list.

    Errors: E_INVALIDARG for a list that cannot be used, in a sentence that names it.
    """
    return listed_files(path, _read(path), writers)


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise refuse(path, f"it cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refuse(path, f"it is not TOML: {error}") from error
