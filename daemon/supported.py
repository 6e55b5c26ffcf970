"""Which mounted volumes can be copied as they are, by providers that need not have them protected first."""

from __future__ import annotations

from shadowset.daemon.house import House
from shadowset.daemon.mounts import read_mounts
from shadowset.vss.requester_protocol import SupportedVolume


async def supported_volumes(house: House) -> list[SupportedVolume]:
    """By name. What lies on a protected volume, or was mounted by us, is none of them. Errors: VssError."""
    protected = {point for row in house.volumes.rows() for point in house.volumes.mount_points(row.name)}
    ours = f"{house.paths.runtime}/"
    paths = {mount.path: mount for mount in read_mounts() if mount.source.startswith("/")}
    others = [provider for provider in house.providers if provider is not house.providers.builtin]
    found: dict[str, SupportedVolume] = {}
    for path in sorted(paths):
        if path in protected or path.startswith(ours):
            continue
        for provider in others:
            facts = await provider.find(path)
            if facts and path in facts.mount_points:
                entry = SupportedVolume(facts.name, provider.info.provider_id, [], facts.holds)
                found.setdefault(facts.name, entry).mount_points.append(path)
                break
    return sorted(found.values(), key=lambda volume: volume.name)
