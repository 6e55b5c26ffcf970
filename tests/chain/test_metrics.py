"""Metrics of a whole installation, read by Prometheus's own parser."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="not installed: prometheus-client")

from prometheus_client.parser import text_string_to_metric_families

from shadowset.requester.metrics import exposition


def samples(text: str) -> dict[tuple[str, str], float]:
    """The value of each sample, by its name and its labels' values joined."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            found[sample.name, ",".join(sample.labels.values())] = sample.value
    return found


def test_a_scrape_tells_what_there_is(volumes: Any, wait_until: Any) -> None:
    chain = volumes
    chain.cli("create", "one")
    record = chain.cli("create", *chain.places)
    output = f"{chain.directory}/shadowset.prom"
    done = chain.raw("metrics", "--output", output)
    assert done.returncode == 0, done.stderr
    found = samples(Path(output).read_text())
    assert found["shadowset_up", ""] == 1
    assert found["shadowset_shadow_copies", "one"] == 2
    assert found["shadowset_shadow_copies", "two"] == 1
    assert found["shadowset_volume_online", "one"] == found["shadowset_volume_attached", "two"] == 1
    cost = {times["volume"]: times for times in record["volumes"]}
    for name in chain.places:
        assert found["shadowset_last_hold_seconds", name] == pytest.approx(cost[name]["hold_ms"] / 1000)
        assert 0 < found["shadowset_newest_copy_timestamp_seconds", name] <= time.time()
        (used,) = [each["used"] for each in chain.cli("storage", "list") if each["volume"] == name]
        assert found["shadowset_storage_used_bytes", name] == used
    assert ("shadowset_last_event_timestamp_seconds", "set-created,") in found
    assert samples(chain.raw("metrics").stdout).keys() == found.keys()

    chain.daemon.terminate()
    chain.daemon.wait(20)
    done = chain.raw("metrics")
    assert (done.returncode, samples(done.stdout)) == (0, {("shadowset_up", ""): 0.0})


def test_nothing_at_all_is_a_scrape_too() -> None:
    assert samples(exposition(None).decode()) == {("shadowset_up", ""): 0.0}
