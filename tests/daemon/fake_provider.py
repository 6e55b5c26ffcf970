"""A provider process that copies whole image files, with faults to order in ``<storage>/faults.json``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

from shadowset.vss import provider_protocol as pp
from shadowset.vss.codes import Code, VssError, code_name
from shadowset.vss.wire import FrameDecoder, encode


class FakeProvider:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.holder: object = None
        self.hold_started = 0.0
        self.stopping = asyncio.Event()
        os.makedirs(options.storage, exist_ok=True)
        self.copies: dict[str, pp.CopyInfo] = {}
        self.limits: tuple[int, str, int] = (0, "delete-oldest", 80)
        if os.path.exists(self.table):
            with open(self.table) as file:
                self.copies = {each["copy_id"]: pp.CopyInfo(**each) for each in json.load(file)}

    @property
    def table(self) -> str:
        return f"{self.options.storage}/copies.json"

    def save(self) -> None:
        with open(self.table + ".new", "w") as file:
            json.dump([{name: getattr(c, name) for name in c.__struct_fields__} for c in self.copies.values()], file)
        os.rename(self.table + ".new", self.table)

    def image(self, copy_id: str) -> str:
        return f"{self.options.storage}/{copy_id}.img"

    def faults(self) -> dict[str, Any]:
        try:
            with open(f"{self.options.storage}/faults.json") as file:
                return dict(json.load(file))
        except FileNotFoundError:
            return {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = object()
        decoder: FrameDecoder[pp.ToProvider] = FrameDecoder(pp.ToProvider)
        while data := await reader.read(65536):
            for call in decoder.feed(data):
                try:
                    answer: Any = pp.Done(call.seq, await self.perform(call, me))
                except VssError as error:
                    answer = pp.Failed(call.seq, error.code, code_name(error.code), error.message)
                writer.write(encode(answer))
        if self.holder is me:
            self.holder = None
        writer.close()

    async def perform(self, call: Any, me: object) -> Any:
        kind = call.__struct_config__.tag
        fault = self.faults().get(kind, {})
        if fault.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if "mark" in fault:
            with open(fault["mark"], "w") as file:
                file.write(kind)
        await asyncio.sleep(fault.get("delay", 0))
        if "code" in fault:
            raise VssError(fault["code"], "ordered by the test")
        value = await getattr(self, kind.replace("-", "_"))(call, me)
        if fault.get("kill_after"):
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    async def describe(self, call: Any, me: object) -> pp.VolumeDescription:
        o = self.options
        return pp.VolumeDescription(
            o.name,
            o.origin,
            o.storage,
            os.path.getsize(o.origin),
            o.chunk_size,
            len(self.copies),
            0,
            o.nbd,
            os.getpid(),
            self.holder is not None,
            list(self.copies.values()),
            *self.limits,
        )

    async def hold(self, call: pp.Hold, me: object) -> pp.Held:
        self.holder, self.hold_started = me, time.monotonic()
        self.hold_timeout = call.timeout_ms / 1000
        return pp.Held(0.1)

    def check_hold(self, me: object) -> None:
        if self.holder is not me or time.monotonic() - self.hold_started > self.hold_timeout:
            raise VssError(Code.VSS_E_HOLD_WRITES_TIMEOUT, "the hold has ended")

    async def commit(self, call: pp.Commit, me: object) -> pp.Committed:
        self.check_hold(me)
        subprocess.run(["cp", "--sparse=always", self.options.origin, self.image(call.copy_id)], check=True)
        number = len(self.copies) + 1
        size = os.path.getsize(self.options.origin)
        self.copies[call.copy_id] = pp.CopyInfo(
            call.copy_id, call.set_id, number, call.created_ns, call.persistent, True, size
        )
        self.save()
        return pp.Committed(number)

    async def release(self, call: Any, me: object) -> pp.Released:
        self.check_hold(me)
        self.holder = None
        return pp.Released((time.monotonic() - self.hold_started) * 1000, 0)

    async def finish(self, call: pp.Finish, me: object) -> None:
        info = self.known(call.copy_id)
        info.pending, info.attributes = False, call.attributes & ~1
        self.save()

    async def delete(self, call: pp.Delete, me: object) -> None:
        self.known(call.copy_id)
        del self.copies[call.copy_id]
        os.unlink(self.image(call.copy_id))
        self.save()

    async def configure(self, call: pp.Configure, me: object) -> pp.VolumeDescription:
        wanted = (call.max_size, call.policy, call.warn_percent)
        size, policy, warn = (old if new is None else new for old, new in zip(self.limits, wanted, strict=True))
        self.limits = (int(size), str(policy), int(warn))
        return await self.describe(call, me)

    async def set_copy(self, call: pp.SetCopy, me: object) -> None:
        info = self.known(call.copy_id)
        info.priority = info.priority if call.priority is None else call.priority
        info.hold_until_ns = info.hold_until_ns if call.hold_until_ns is None else call.hold_until_ns
        self.save()

    def known(self, copy_id: str) -> pp.CopyInfo:
        if copy_id not in self.copies:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"no copy {copy_id}")
        return self.copies[copy_id]

    async def list_events(self, call: Any, me: object) -> pp.Events:
        return pp.Events([])

    async def stop(self, call: Any, me: object) -> None:
        asyncio.get_running_loop().call_later(0.05, self.stopping.set)


async def run(options: argparse.Namespace) -> None:
    provider = FakeProvider(options)
    if provider.faults().get("start"):
        sys.exit(provider.faults()["start"])
    directory = os.path.dirname(options.control)
    with open(f"{directory}/origin", "w") as file:
        file.write(options.origin)
    for path in (options.nbd, options.control):
        if os.path.exists(path):
            os.unlink(path)
    await asyncio.start_unix_server(lambda r, w: w.close(), options.nbd)
    await asyncio.start_unix_server(provider.serve, options.control)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, provider.stopping.set)
    await provider.stopping.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    for name in ("origin", "storage", "nbd", "control"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--chunk-size", type=int, default=16384)
    parser.add_argument("--max-copies", type=int)
    parser.add_argument("--existing", action="store_true")
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--group")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
