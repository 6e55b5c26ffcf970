"""Runs inside the booted Debian: takes one command a line from the serial line, and answers with what came of it."""

import json
import os
import subprocess
import tempfile
import tty


def main() -> None:
    """Until the machine ends."""
    descriptor = os.open("/dev/ttyS0", os.O_RDWR | os.O_NOCTTY)
    tty.setraw(descriptor)
    # What the line held from before is cut off from the first answer.
    os.write(descriptor, b"\n@ready\n")
    with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as line:
        waiting = b""
        while data := line.read(4096):
            waiting += data
            while b"\n" in waiting:
                text, waiting = waiting.split(b"\n", 1)
                _answer(descriptor, json.loads(text))


def _answer(descriptor: int, asked: dict[str, str]) -> None:
    # A file, not a pipe, which a process in the background would hold open.
    with tempfile.TemporaryFile(dir="/run") as output:
        done = subprocess.run(
            ["/bin/sh", "-c", asked["command"]], stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        )
        output.seek(0)
        said = output.read().decode(errors="replace")
    answer = {"number": asked["number"], "status": done.returncode, "output": said}
    rest = memoryview(b"@" + json.dumps(answer).encode() + b"\n")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


main()
