"""Commands to the server that has a database open."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from shadowset.vss.codes import Code, VssError
from shadowset.writers.groonga.shell import answer_of


def ask(url: str, command: str, seconds: float, **arguments: str) -> Any:
    """One command's answer. Errors: VSS_E_WRITERERROR_RETRYABLE when none comes; VssError with Groonga's own words."""
    address = f"{url}/d/{command}?{urllib.parse.urlencode(arguments)}"
    problem = f"the Groonga server at {url} did not do {command}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(address, timeout=max(seconds, 0.001)) as response:
            body = response.read()
    except urllib.error.HTTPError as error:
        body = error.read()
    except OSError as error:
        reason = getattr(error, "reason", error)
        message = f"{problem} ({reason}); see that it runs and is not out of threads, and try again"
        raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message) from error
    return answer_of(body, problem)
