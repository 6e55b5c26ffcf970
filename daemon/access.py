"""Who may be a writer and who a requester: the rules of ``access.d``, checked against what the kernel says of a peer.

A rule for the user goes before rules for his groups. Of several, those that deny win, and the others add up. Whoever no
rule names is judged as without rules: root and the members of the service's group may be both.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable
from dataclasses import dataclass
from enum import Flag
from typing import Any

from shadowset.daemon.config import read_toml, refuse, toml_files
from shadowset.daemon.server import GROUP, Peer, service_group
from shadowset.vss.codes import Code, VssError


class Role(Flag):
    """What a peer may be."""

    DENY = 0
    WRITER = 1
    REQUESTER = 2
    BOTH = 3


ROLES = {role.name.lower(): role for role in (Role.DENY, Role.WRITER, Role.REQUESTER, Role.BOTH) if role.name}


@dataclass(frozen=True)
class Rule:
    """For the user or the group of this number."""

    by_group: bool
    number: int
    role: Role
    delete: bool = True


class Access:
    """The rules of one coordinator; they are read when it starts."""

    def __init__(self, rules: list[Rule]) -> None:
        self.rules = rules

    @classmethod
    def load(cls, directory: str) -> Access:
        """Errors: E_INVALIDARG with a sentence that names the file and the key."""
        return cls([rule for path in toml_files(directory) for rule in _rules(path)])

    def _of(self, peer: Peer) -> list[Rule]:
        own = [each for each in self.rules if not each.by_group and each.number == peer.uid]
        return own or [each for each in self.rules if each.by_group and each.number in peer.groups]

    def may_delete(self, peer: Peer) -> bool:
        """Whether a requester may delete shadow copies, and make room at their cost."""
        return all(each.delete for each in self._of(peer))

    def check(self, peer: Peer, role: Role) -> None:
        """Errors: E_ACCESSDENIED."""
        found = [each.role for each in self._of(peer)]
        what = "a requester" if role is Role.REQUESTER else "a writer"
        if found:
            if Role.DENY in found or not any(each & role for each in found):
                raise VssError(
                    Code.E_ACCESSDENIED,
                    f"user {peer.uid} may not be {what}; a rule in access.d says what that user may",
                )
        elif (self.rules or role is Role.REQUESTER) and not _is_member(peer):
            raise VssError(
                Code.E_ACCESSDENIED,
                f"user {peer.uid} may not be {what}; only root and the group {GROUP!r} may, and who a rule in access.d "
                f"allows it",
            )


def _is_member(peer: Peer) -> bool:
    group = service_group()
    return peer.uid == 0 or (group is not None and group in peer.groups)


def _rules(path: str) -> list[Rule]:
    tables = read_toml(path)
    for name in tables.keys() - {"rule"}:
        raise refuse(path, f"there is no key {name!r}; rules are written as [[rule]]")
    rules = tables.get("rule", [])
    if not isinstance(rules, list) or not all(isinstance(each, dict) for each in rules):
        raise refuse(path, "key 'rule' must be an array of tables, as [[rule]]")
    return [_rule(path, f"rule {number}", each) for number, each in enumerate(rules, 1)]


def _rule(path: str, where: str, table: dict[str, Any]) -> Rule:
    for name in table.keys() - {"user", "group", "access", "delete"}:
        raise refuse(path, f"{where}: there is no key {name!r}; known are 'user', 'group', 'access' and 'delete'")
    if ("user" in table) == ("group" in table):
        raise refuse(path, f"{where}: give one of the keys 'user' and 'group'")
    word = table.get("access")
    role = ROLES.get(word) if isinstance(word, str) else None
    if role is None:
        raise refuse(path, f"{where}: key 'access' must be one of {', '.join(ROLES)}")
    delete = table.get("delete", True)
    if not isinstance(delete, bool):
        raise refuse(path, f"{where}: key 'delete' must be true or false")
    key = "user" if "user" in table else "group"
    return Rule(key == "group", _number(path, where, key, table[key]), role, delete)


def _number(path: str, where: str, key: str, value: object) -> int:
    if type(value) is int and 0 <= value < 2**32 - 1:
        return value
    find: Callable[[str], int] = _uid if key == "user" else _gid
    try:
        if isinstance(value, str):
            return find(value)
    except (KeyError, ValueError):
        pass
    raise refuse(path, f"{where}: key {key!r}: there is no {key} {value!r} on this host")


def _uid(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _gid(name: str) -> int:
    return grp.getgrnam(name).gr_gid
