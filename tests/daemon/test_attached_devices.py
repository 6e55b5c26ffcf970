"""What an administrator may do wrong around an attached volume, or one that is not attached yet."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import Code, VssError


def test_an_origin_taken_after_it_was_added(host: Any, backup: Any) -> None:
    """It would be mounted twice: attaching and creating refuse what adding refuses, and go on when it is free."""
    host.start()
    requester = host.requester()
    image = host.image("one")
    requester.call(rp.VolumeAdd, "one", image, host.storage("one"))
    loop = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True, check=True).stdout.strip()
    host.loops.append(loop)
    with pytest.raises(VssError) as attaching:
        requester.call(rp.VolumeAttach, "one")
    with pytest.raises(VssError) as creating:
        backup(["one"], context=0x10).make()
    subprocess.run(["losetup", "--detach", loop], check=True)
    assert attaching.value.code == Code.VSS_E_VOLUME_IN_USE and loop in attaching.value.message
    assert creating.value.code == Code.VSS_E_VOLUME_NOT_SUPPORTED and loop in creating.value.message
    host.loops.append(requester.call(rp.VolumeAttach, "one").device)
