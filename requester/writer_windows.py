"""The coordinator's file of freeze windows that were set by command."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from shadowset.vss.codes import Code, VssError

FILE = "writer-windows.toml"
HEAD = "# Made by 'shadowset writers window --keep', and written anew by it.\n[writer-window]\n"


def keep_window(directory: str, writer_id: str, window_ms: int) -> None:
    """Adds a window, or takes it away with 0; the others in the file stay. Errors: VssError."""
    path = f"{directory}/{FILE}"
    try:
        os.makedirs(directory, exist_ok=True)
        old = Path(path).read_text(encoding="utf-8") if os.path.exists(path) else ""
        windows: dict[str, int] = tomllib.loads(old).get("writer-window", {})
        windows = {name: value for name, value in windows.items() if name != writer_id}
        if window_ms:
            windows[writer_id] = window_ms
        Path(f"{path}.new").write_text(
            HEAD + "".join(f'"{name}" = {value}\n' for name, value in sorted(windows.items())), encoding="utf-8"
        )
        os.rename(f"{path}.new", path)
    except (OSError, tomllib.TOMLDecodeError) as error:
        message = f"{path} cannot be written ({error}); run it as root, or mend the file"
        raise VssError(Code.E_ACCESSDENIED, message) from error
