"""Events of the providers, kept in the coordinator's own list: providers remember theirs only while they run."""

from __future__ import annotations

from shadowset.daemon.control_link import ControlLink
from shadowset.daemon.house import House
from shadowset.vss.provider_protocol import VolumeDescription


async def take_over(house: House, volume: str, link: ControlLink, told: VolumeDescription) -> None:
    """Record what has happened since the last time; numbers begin anew with each provider process.

    Errors: VssError when the provider does not answer.
    """
    setting = f"provider-events:{volume}"
    process, _, number = house.catalogue.setting(setting).partition(":")
    after = int(number) if process == str(told.pid) else 0
    events = (await link.list_events(after)).events
    if not events:
        return
    await house.quiet.writable()
    for each in events:
        house.event(each.event, each.message, volume)
    house.catalogue.set_setting(setting, f"{told.pid}:{events[-1].number}")
