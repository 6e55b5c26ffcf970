"""How Samba and NFS are told to share a directory read-only, and to share it no more.

Both are told by their own programs, for their servers that run, and no file of configuration is changed: Samba by a
usershare (smb.conf must allow them, as Debian's does), NFS by exportfs, whose exports a reboot forgets.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import subprocess
from abc import ABC, abstractmethod

import msgspec

from shadowset.vss.codes import Code, VssError

SAMBA, NFS = "samba", "nfs"
SECONDS = 60
EVERYONE = "S-1-1-0"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,62}")
CLIENT = re.compile(r"[A-Za-z0-9@*?.:/_\[\]-]+")
USER = re.compile(r"[^\x00-\x20:,\"]+")


class Share(msgspec.Struct, kw_only=True):
    """One share: ``path`` is the directory in the copy, which is mounted at ``mount``; ``ours`` if it was for this.

    ``name`` is that of a Samba share; an export of NFS has none. ``allowed`` are users, or hosts and networks. With
    ``smb_conf`` Samba's configuration lies elsewhere.
    """

    kind: str
    snapshot_id: str
    name: str = ""
    mount: str = ""
    path: str = ""
    ours: bool = True
    allowed: list[str] = []
    guests: bool = False
    smb_conf: str = ""
    created: str = ""

    @property
    def title(self) -> str:
        """What it is called in sentences."""
        return f"share {self.name}" if self.kind == SAMBA else f"export {self.path}"


class Server(ABC):
    """What shares. Errors of all calls: VssError."""

    @abstractmethod
    def check(self, share: Share) -> None:
        """Refuse what cannot be shared, before anything is done."""

    @abstractmethod
    def add(self, share: Share) -> str:
        """Share it; how clients call it."""

    @abstractmethod
    def remove(self, share: Share) -> None:
        """Share it no more; nothing happens when it is not shared."""

    @abstractmethod
    def has(self, share: Share) -> bool:
        """Whether it is shared now."""


class Samba(Server):
    """Usershares, of which only root's are ours."""

    def check(self, share: Share) -> None:
        """See ``Server``."""
        if not NAME.fullmatch(share.name):
            raise VssError(Code.E_INVALIDARG, f"{share.name!r} cannot be the name of a share; choose another")
        for user in share.allowed:
            if not USER.fullmatch(user):
                raise VssError(Code.E_INVALIDARG, f"{user!r} is no name of a user or group")
        if self._listed(share) or self._configured(share):
            sentence = f"Samba has a share {share.name} already; choose another name, or take that one away"
            raise VssError(Code.VSS_E_OBJECT_ALREADY_EXISTS, sentence)

    def add(self, share: Share) -> str:
        """See ``Server``."""
        access = ",".join(f"{_sid(user)}:R" for user in share.allowed) or f"{EVERYONE}:R"
        guests = f"guest_ok={'y' if share.guests else 'n'}"
        self._net(share, "add", share.name, share.path, f"shadow copy {share.snapshot_id}", access, guests)
        return f"\\\\{os.uname().nodename}\\{share.name}"

    def remove(self, share: Share) -> None:
        """See ``Server``: clients that use it are cut off."""
        try:
            self._net(share, "delete", share.name)
        except VssError as error:
            if "No such file" not in error.message:
                raise
        _run("smbcontrol", *_conf(share), "smbd", "close-share", share.name, refused=True)

    def has(self, share: Share) -> bool:
        """See ``Server``."""
        return self._listed(share)

    def _listed(self, share: Share) -> bool:
        """One whose directory is gone is not listed, and makes net fail."""
        told = _run("net", *_conf(share), "usershare", "list", "*", refused=True)
        return share.name.lower() in told.lower().splitlines()

    def _configured(self, share: Share) -> bool:
        where = [share.smb_conf] if share.smb_conf else []
        return bool(_run("testparm", "-s", "--section-name", share.name, *where, refused=True).strip())

    def _net(self, share: Share, *words: str) -> str:
        return _run("net", *_conf(share), "usershare", *words)


def _sid(who: str) -> str:
    """What Samba calls a user, or with @ a group, of this host; other names it looks up itself."""
    with contextlib.suppress(KeyError):
        if who.startswith("@"):
            return f"S-1-22-2-{grp.getgrnam(who[1:]).gr_gid}"
        return f"S-1-22-1-{pwd.getpwnam(who).pw_uid}"
    return who


def _conf(share: Share) -> tuple[str, ...]:
    return ("-s", share.smb_conf) if share.smb_conf else ()


class Nfs(Server):
    """Exports of the kernel's server."""

    def check(self, share: Share) -> None:
        """See ``Server``."""
        if not share.allowed:
            raise VssError(Code.E_INVALIDARG, "say which hosts may read it: --allow 192.0.2.0/24")
        for client in share.allowed:
            if not CLIENT.fullmatch(client):
                raise VssError(Code.E_INVALIDARG, f"{client!r} is no host or network, as exports(5) has them")
        _run("exportfs", "-s")

    def add(self, share: Share) -> str:
        """See ``Server``. The copy has the UUID of its volume, which may be exported too: so it gets an own one."""
        check = "subtree_check" if share.path != share.mount else "no_subtree_check"
        options = f"ro,sync,root_squash,{check},fsid={share.snapshot_id}"
        for client in share.allowed:
            _run("exportfs", "-o", options, f"{_bracketed(client)}:{share.path}")
        return f"{os.uname().nodename}:{share.path}"

    def remove(self, share: Share) -> None:
        """See ``Server``: what the kernel knows of it is forgotten, so that the copy can be unmounted."""
        for client in share.allowed:
            if self._exported(share):
                _run("exportfs", "-u", f"{_bracketed(client)}:{share.path}", refused=True)
        if self._exported(share):
            raise VssError(Code.E_UNEXPECTED, f"exportfs still has {share.path}; see to it with 'exportfs -u'")
        _run("exportfs", "-f")

    def has(self, share: Share) -> bool:
        """See ``Server``."""
        return self._exported(share)

    def _exported(self, share: Share) -> bool:
        told = (line.split()[0] for line in _run("exportfs", "-s").splitlines() if line.strip())
        return share.path in (re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path) for path in told)


def _bracketed(client: str) -> str:
    """An IPv6 address has colons of its own."""
    return f"[{client}]" if ":" in client and not client.startswith("[") else client


PACKAGES = {"net": "samba-common-bin", "smbcontrol": "samba-common-bin", "testparm": "samba-common-bin"}
"""Which of Debian's packages a program is in; else nfs-kernel-server."""


def _run(*command: str, refused: bool = False) -> str:
    """What it prints; ``refused``: it may fail. Errors: VSS_E_NOT_SUPPORTED without the program, E_UNEXPECTED."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False,
            env={**os.environ, "PATH": path},
        )  # fmt: skip
    except FileNotFoundError:
        package = PACKAGES.get(command[0], "nfs-kernel-server")
        sentence = f"{command[0]} is not there; install it (apt install {package})"
        raise VssError(Code.VSS_E_NOT_SUPPORTED, sentence) from None
    except subprocess.TimeoutExpired:
        raise VssError(Code.E_UNEXPECTED, f"{command[0]} does not end; see to its server") from None
    if done.returncode and not refused:
        why = " ".join((done.stderr or done.stdout).split())[-300:]
        raise VssError(Code.E_UNEXPECTED, f"{' '.join(command[:3])} failed with {done.returncode}: {why}")
    return done.stdout


def server_of(share: Share) -> Server:
    """Who shares it."""
    return Samba() if share.kind == SAMBA else Nfs()
