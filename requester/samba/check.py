"""Whether clients of a share really get previous versions, asked with Samba's own client."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass

import msgspec

from shadowset.vss.codes import Code, VssError

TOKEN = re.compile(r"^@GMT-\d{4}\.\d\d\.\d\d-\d\d\.\d\d\.\d\d", re.MULTILINE)
CLIENT_SECONDS = 60


@dataclass(frozen=True)
class Client:
    """How smbclient reaches the server. The password comes from a file as smbclient reads it, or from $PASSWD."""

    server: str = "127.0.0.1"
    port: int = 445
    user: str = ""
    authentication_file: str = ""
    smb_conf: str = ""

    def command(self, share: str, words: str) -> list[str]:
        """The whole command line."""
        options = ["-p", str(self.port)]
        options += ["-s", self.smb_conf] if self.smb_conf else []
        options += ["-A", self.authentication_file] if self.authentication_file else []
        options += ["-U", self.user] if self.user else []
        options += [] if self.user or self.authentication_file else ["-N"]
        return ["smbclient", *options, f"//{self.server}/{share}", "-c", words]

    def versions(self, share: str) -> list[str]:
        """The previous versions of the share's own directory, newest first. Errors: VssError with smbclient's words."""
        return TOKEN.findall(self.run(share, 'allinfo ""'))

    def run(self, share: str, words: str) -> str:
        """What smbclient prints. Errors: VssError."""
        try:
            done = subprocess.run(
                self.command(share, words),
                capture_output=True, text=True, timeout=CLIENT_SECONDS, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise VssError(Code.VSS_E_NOT_SUPPORTED, "smbclient is not there; install it") from error
        except subprocess.TimeoutExpired as error:
            raise VssError(Code.E_UNEXPECTED, f"the server of {share} does not answer; see that smbd runs") from error
        if done.returncode:
            reason = " ".join((done.stdout + done.stderr).split())
            message = f"smbclient cannot look at share {share} ({reason}); check server, user and share"
            raise VssError(Code.E_UNEXPECTED, message)
        return done.stdout


class ShareReport(msgspec.Struct, kw_only=True):
    """What was found: versions that there should be, those that the server tells of, and what is wrong."""

    share: str
    volume: str
    expected: list[str]
    seen: list[str]
    problems: list[str]


def compare(expected: list[str], seen: list[str]) -> list[str]:
    """What clients miss, and what they see and should not, in sentences."""
    missing = [name for name in expected if name not in seen]
    extra = [name for name in seen if name not in expected]
    problems = [f"clients do not see {name}; look at smbd's log" for name in missing]
    return problems + [f"clients see {name}, which is no shadow copy; look at shadow:snapdir" for name in extra]


def mounted_versions(directory: str, relative: str) -> list[str]:
    """The versions in the directory of a volume that have the share's directory, newest first."""
    try:
        names = sorted(os.listdir(directory), reverse=True)
    except FileNotFoundError:
        return []
    return [name for name in names if os.path.isdir(f"{directory}/{name}/{relative}")]
