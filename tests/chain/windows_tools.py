"""Running vssadmin, diskshadow and vshadow against an installation of the chain's."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

GUID = r"\{([0-9a-f-]{36})\}"


def tool(chain: Any, name: str, *arguments: str, answer: str = "", status: int = 0) -> str:
    """Run one of the tools; returns its standard output, and with another status than 0 its standard error."""
    done = subprocess.run(
        command(name, *arguments),
        env=chain.environment,
        cwd=chain.directory,
        input=answer,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == status, f"{name} {arguments}: {done.stdout}\n{done.stderr}\n{chain.log()[-3000:]}"
    return done.stderr if status else done.stdout


def start(chain: Any, name: str, *arguments: str) -> subprocess.Popen[str]:
    """Begin one of the tools, which the caller talks to."""
    return subprocess.Popen(
        command(name, *arguments),
        env=chain.environment,
        cwd=chain.directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def command(name: str, *arguments: str) -> list[str]:
    """How a tool is run, wherever its package is installed."""
    code = f"import sys; from shadowset.requester.windows.{name} import main; sys.exit(main())"
    return [sys.executable, "-c", code, *arguments]


def found(pattern: str, text: str) -> list[str]:
    """What the group of a pattern matches, all through a text."""
    return re.findall(pattern, text)
