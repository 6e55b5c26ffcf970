"""What changed: which provider is asked, and when nothing may be said."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from shadowset.daemon import nbd
from shadowset.daemon.commands import Commands
from shadowset.daemon.delta import query_delta
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths
from shadowset.vss.provider_protocol import ChangedRanges

ANSWER = ChangedRanges(4096, 8192, 8192, [(0, 4096)])


def copy(snapshot_id: str, volume: str = "data", provider_id: str = "p") -> Any:
    return SimpleNamespace(snapshot_id=snapshot_id, original_volume=volume, provider_id=provider_id)


class Tracking:
    """A provider that knows; ``asked`` is what it was asked."""

    info = SimpleNamespace(name="Tracking")

    def __init__(self, failure: VssError | None = None) -> None:
        self.asked: list[tuple[str, str, str, int]] = []
        self._failure = failure

    async def changes(self, volume: str, since: str, until: str, offset: int) -> ChangedRanges:
        self.asked.append((volume, since, until, offset))
        if self._failure:
            raise self._failure
        return ANSWER


def query(provider: Any, since: Any, until: Any = None, offset: int = 0) -> ChangedRanges:
    providers: Any = SimpleNamespace(get=lambda provider_id: provider)
    return asyncio.run(query_delta(providers, since, until, offset))


def test_the_copies_provider_is_asked() -> None:
    provider = Tracking()
    assert query(provider, copy("a"), copy("b"), 4096) == ANSWER
    assert query(provider, copy("a")) == ANSWER
    assert provider.asked == [("data", "a", "b", 4096), ("data", "a", "", 0)]


@pytest.mark.parametrize("other", [copy("b", volume="wal"), copy("b", provider_id="q")])
def test_copies_of_two_volumes_have_no_difference(other: Any) -> None:
    provider = Tracking()
    with pytest.raises(VssError) as refused:
        query(provider, copy("a"), other)
    assert refused.value.code == Code.E_INVALIDARG and not provider.asked


def test_a_provider_that_keeps_no_account_asks_for_a_full_backup() -> None:
    with pytest.raises(VssError, match="full backup") as refused:
        query(SimpleNamespace(info=SimpleNamespace(name="Plain")), copy("a"))
    assert refused.value.code == Code.VSS_E_NOT_SUPPORTED


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (Code.VSS_E_NOT_SUPPORTED, Code.VSS_E_NOT_SUPPORTED),
        (Code.VSS_E_OBJECT_NOT_FOUND, Code.VSS_E_OBJECT_NOT_FOUND),
        (Code.VSS_E_UNEXPECTED, Code.VSS_E_UNEXPECTED_PROVIDER_ERROR),
    ],
)
def test_codes_are_those_that_a_provider_may_return(raised: Code, told: Code) -> None:
    with pytest.raises(VssError) as refused:
        query(Tracking(VssError(raised, "no")), copy("a"))
    assert refused.value.code == told


class Runtime:
    """A volume whose storage is at one of ``places`` each time that it is asked, None being offline."""

    name = "data"
    row = SimpleNamespace(storage="/row")

    def __init__(self, places: list[str | None]) -> None:
        self._places = places
        self.commands: list[tuple[str, ...]] = []
        self.output = (0, '{"block_size":4096,"size":8192,"end":8192,"ranges":[[0,4096]]}', "")

    def online(self) -> Any:
        async def describe() -> Any:
            return SimpleNamespace(storage=place)

        place = self._places.pop(0)
        if place is None:
            raise VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, "volume data is offline")
        return SimpleNamespace(describe=describe)

    async def run_provider(self, *arguments: str) -> tuple[int, str, str]:
        self.commands.append(arguments)
        return self.output


def ask(runtime: Runtime, until: str = "b") -> ChangedRanges:
    volumes: Any = SimpleNamespace(link_of=None, get=lambda name: runtime)
    provider = nbd.NbdProvider(Paths("/none", "/none"), volumes, Commands())
    return asyncio.run(provider.changes("data", "a", until, 0))


def test_a_storage_that_moved_meanwhile_is_asked_again() -> None:
    runtime = Runtime(["/old", "/new", "/new"])
    assert ask(runtime) == ANSWER
    assert [command[1] for command in runtime.commands] == ["/old", "/new"]


def test_an_offline_volume_tells_what_changed_between_copies_only() -> None:
    runtime = Runtime([None, None])
    assert ask(runtime) == ANSWER
    assert runtime.commands == [("changes", "/row", "a", "b", "--offset=0")]
    for places in ([None], ["/row", None]):
        with pytest.raises(VssError, match="offline"):
            ask(Runtime(list(places)), until="")


@pytest.mark.parametrize(
    ("output", "code", "word"),
    [
        ((1, '{"code":2147754760,"message":"copy a is gone"}', ""), Code.VSS_E_OBJECT_NOT_FOUND, "gone"),
        ((1, "", "Traceback\nImportError: no"), Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, "ImportError"),
        ((124, "", ""), Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, "124"),
        ((0, "[]", ""), Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, "data"),
    ],
)
def test_a_program_that_fails_is_one_sentence(output: tuple[int, str, str], code: Code, word: str) -> None:
    runtime = Runtime(["/row", "/row"])
    runtime.output = output
    with pytest.raises(VssError, match=word) as failed:
        ask(runtime)
    assert failed.value.code == code
