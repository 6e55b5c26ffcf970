"""The last step of a move, for which copy-outs wait, is small however much is copied out meanwhile."""

from __future__ import annotations

import os

import pytest
from moving import CHUNK, Scene

from shadowset.nbd_provider.store import move_steps
from shadowset.nbd_provider.store.move_steps import LAST_SLOTS, PATIENT, Move


def overwrite(scene: Scene, chunks: int) -> None:
    """So many slots more."""
    scene.cut()
    for chunk in range(chunks):
        scene.store.prepare_write([(chunk * CHUNK, CHUNK)])
        data = scene.chance.randbytes(CHUNK)
        os.pwrite(scene.fd, data, chunk * CHUNK)
        scene.content[chunk * CHUNK : (chunk + 1) * CHUNK] = data


@pytest.mark.parametrize("times", [0, 1, PATIENT, 100])
def test_what_is_copied_out_while_the_move_syncs(
    memory_directory: str, small_segments: None, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """As much as a volume has is overwritten at each sync that does not hold copy-outs up, so often."""
    monkeypatch.setattr(move_steps, "CHASE_SLOTS", 15)
    monkeypatch.setattr(move_steps, "LAST_SLOTS", 4)
    scene = Scene(memory_directory, 7)
    overwrite(scene, 59)
    left, lasts = [times], []
    real_sync, real_finish = Move._sync, Move._finish

    def sync(move: Move) -> None:
        real_sync(move)
        if left[0] and not scene.store.work._is_owned():  # type: ignore[attr-defined]
            left[0] -= 1
            overwrite(scene, 59)

    def finish(move: Move, position: int, most: int) -> bool:
        lasts.append((scene.store.next_slot - position, most))
        return real_finish(move, position, most)

    monkeypatch.setattr(Move, "_sync", sync)
    monkeypatch.setattr(Move, "_finish", finish)
    scene.mover.begin(scene.place("b"))
    scene.end_move()
    assert scene.mover.progress is None and scene.store.storage == scene.place("b")
    assert len(lasts) == min(times, PATIENT) + 1, lasts
    assert all(rest > most for rest, most in lasts[:-1]) and lasts[-1][0] <= lasts[-1][1]
    assert lasts[-1][1] <= 4 << move_steps.DOUBLINGS < LAST_SLOTS
    scene.compare()
    scene.close()
