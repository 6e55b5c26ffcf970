"""Who may be what: rules for users and groups, the real sockets under other users, and files that cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from shadowset.daemon.access import Access, Role
from shadowset.daemon.server import Peer
from shadowset.vss import requester_protocol as rp
from shadowset.vss import writer_protocol as wp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.wire import FrameDecoder, encode

CLIENT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as channel:
    channel.settimeout(30)
    channel.connect(sys.argv[1])
    channel.sendall(bytes.fromhex(sys.argv[2]))
    data = channel.recv(65536)
    sys.stdout.write(data.hex())
"""
ROLES = {65501: "deny", 65502: "writer", 65503: "requester", 65504: "both"}
RULES = "\n".join(f'[[rule]]\nuser = {uid}\naccess = "{role}"' for uid, role in ROLES.items())


def rules(directory: Path, text: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "rules.toml").write_text(text)
    return directory


def as_user(uid: int, path: str, message: Any, answers: Any) -> Any:
    """The first answer that a process of this user gets."""
    python = os.path.realpath(sys.executable)
    command = [python, "-I", "-S", "-c", CLIENT, path, encode(message).hex()]
    done = subprocess.run(
        command, user=uid, group=uid, extra_groups=[], cwd="/", capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode and "PermissionError" in done.stderr:
        return None
    assert done.returncode == 0, done.stderr
    return FrameDecoder(answers).feed(bytes.fromhex(done.stdout))[0]


@pytest.mark.vss(30)
def test_four_users_in_two_roles(host: Any) -> None:
    rules(Path(host.paths.access), RULES)
    host.base.chmod(0o711)
    host.start()
    for uid, role in [*ROLES.items(), (65505, "none")]:
        hello = wp.Hello(str(uuid.uuid4()), "Some writer")
        told = as_user(uid, host.paths.writer_socket, hello, wp.ToWriter)
        assert isinstance(told, wp.Welcome if role in ("writer", "both") else wp.Refused), (uid, role, told)
        assert isinstance(told, wp.Welcome) or (told.code == Code.E_ACCESSDENIED and f"user {uid}" in told.message)
        told = as_user(uid, host.paths.requester_socket, rp.ServiceHello(1), rp.FromCoordinator)
        assert isinstance(told, rp.Result if role in ("requester", "both") else rp.CallFailure), (uid, role, told)
        assert isinstance(told, rp.Result) or (told.code == Code.E_ACCESSDENIED and f"user {uid}" in told.message)


@pytest.mark.vss(30)
def test_without_rules_other_users_cannot_even_connect(host: Any) -> None:
    host.base.chmod(0o711)
    host.start()
    assert as_user(65501, host.paths.writer_socket, wp.Hello(str(uuid.uuid4()), "w"), wp.ToWriter) is None
    assert as_user(65501, host.paths.requester_socket, rp.ServiceHello(1), rp.FromCoordinator) is None


def may(access: Access, uid: int, *groups: int) -> Role:
    found = Role.DENY
    for role in (Role.WRITER, Role.REQUESTER):
        try:
            access.check(Peer(1, uid, frozenset(groups), ""), role)
            found |= role
        except VssError as error:
            assert error.code == Code.E_ACCESSDENIED
    return found


def test_rules_of_users_go_before_those_of_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shadowset.daemon.access.service_group", lambda: 77)
    text = (
        '[[rule]]\nuser = 1\naccess = "writer"\n[[rule]]\ngroup = 10\naccess = "requester"\n'
        '[[rule]]\ngroup = 11\naccess = "deny"\n[[rule]]\ngroup = 12\naccess = "writer"\n'
        '[[rule]]\nuser = "root"\naccess = "requester"\n'
    )
    access = Access.load(str(rules(tmp_path / "access.d", text)))
    assert may(access, 1, 10) is Role.WRITER and may(access, 1, 11) is Role.WRITER
    assert may(access, 2, 10) is Role.REQUESTER and may(access, 2, 10, 12) is Role.BOTH
    assert may(access, 2, 10, 11) is Role.DENY and may(access, 2, 77) is Role.BOTH and may(access, 2) is Role.DENY
    assert may(access, 0) is Role.REQUESTER
    none = Access.load(str(tmp_path / "nowhere"))
    assert may(none, 0) is Role.BOTH and may(none, 2, 77) is Role.BOTH and may(none, 2) is Role.WRITER


BAD_RULES = {
    "x": "is not TOML",
    "other = 1": "'other'",
    "rule = 1": "'rule'",
    '[[rule]]\naccess = "both"': "'user' and 'group'",
    '[[rule]]\nuser = 1\ngroup = 1\naccess = "both"': "'user' and 'group'",
    "[[rule]]\nuser = 1": "'access' must be one of deny, writer, requester, both",
    '[[rule]]\nuser = 1\naccess = "all"': "'access'",
    '[[rule]]\nuser = "no such"\naccess = "deny"': "'user': there is no user 'no such'",
    '[[rule]]\ngroup = -1\naccess = "deny"': "'group'",
    '[[rule]]\nuser = 1\nwho = 2\naccess = "deny"': "'who'",
}


@pytest.mark.parametrize(("text", "words"), BAD_RULES.items())
def test_rules_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(VssError, match=r"rules\.toml: ") as caught:
        Access.load(str(rules(tmp_path, text)))
    assert words in caught.value.message


def test_the_daemon_does_not_start_with_a_bad_file(host: Any) -> None:
    for name, text, key in (
        ("access.d/x.toml", "rule = 1", "'rule'"),
        ("shadowsetd.d/x.toml", "[limit]\nnone = 1", "'limit.none'"),
    ):
        path = Path(host.paths.config) / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
        process = host.spawn()
        assert process.wait(30) == 1
        (line,) = host.log.read_text().splitlines()
        assert str(path) in line and key in line
        path.unlink()
        host.log.unlink()
