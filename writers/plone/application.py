"""The farm's application, asked over HTTP: whether it answers, and how many documents a site has."""

from __future__ import annotations

import base64
import http
import http.client
import json
import time
import urllib.error
import urllib.request
from urllib.parse import quote

from shadowset.vss.codes import Code, VssError
from shadowset.writers.plone.settings import FarmSettings
from shadowset.writers.service import POLL_SECONDS, Cancelled

ANSWER_SECONDS = 20.0
FAILED = Code.VSS_E_WRITERERROR_RECOVERY_FAILED


class Application:
    """Zope behind ``url``; ``credentials`` is a file with ``user:password`` of one who may see everything."""

    def __init__(self, settings: FarmSettings) -> None:
        self.url = settings.url.rstrip("/")
        self._credentials = settings.credentials

    def _get(self, path: str, accept: str) -> str:
        """Errors: OSError, http.client.HTTPException."""
        request = urllib.request.Request(f"{self.url}{quote(path, safe='/?=&@')}", headers={"Accept": accept})
        if self._credentials:
            with open(self._credentials, "rb") as file:
                request.add_header("Authorization", f"Basic {base64.b64encode(file.read().strip()).decode()}")
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            return str(answer.read().decode())

    def wait(self, seconds: float, cancelled: Cancelled) -> None:
        """Until it answers, whatever it says. Errors: VSS_E_WRITERERROR_RECOVERY_FAILED."""
        end = time.monotonic() + seconds
        while True:
            try:
                self._get("/", "*/*")
            except urllib.error.HTTPError:
                return
            except (OSError, http.client.HTTPException) as error:
                if cancelled() or time.monotonic() >= end:
                    message = f"the farm's application does not answer at {self.url} ({error}); look at its log"
                    raise VssError(FAILED, message) from error
                time.sleep(POLL_SECONDS)
            else:
                return

    def documents(self, path: str) -> int | None:
        """How many documents the catalogue of the site at a path finds; None when there is no such site.

        Errors: VSS_E_WRITERERROR_RECOVERY_FAILED.
        """
        try:
            answer = json.loads(self._get(f"{path.rstrip('/')}/@search?b_size=1", "application/json"))
            return int(answer["items_total"])
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.NOT_FOUND:
                return None
            problem: Exception = error
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            problem = error
        message = f"the farm's application does not tell about the site {path} ({problem}); look at its log"
        raise VssError(FAILED, message) from problem
