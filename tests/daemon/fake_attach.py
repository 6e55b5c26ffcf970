"""An attach command that makes a plain loop device of the origin."""

from __future__ import annotations

import argparse
import json
import os
import subprocess


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb")
    parser.add_argument("name")
    parser.add_argument("--nbd")
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--via", default="auto")
    parser.add_argument("--links")
    options = parser.parse_args()
    state = f"{options.runtime}/attach.json"
    if options.verb == "attach":
        with open(f"{options.runtime}/origin") as file:
            origin = file.read()
        command = ["losetup", "--find", "--show", origin]
        device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        answer = {"device": device, "via": "fuse", "pid": 0}
        with open(state, "w") as file:
            json.dump(answer, file)
        print(json.dumps(answer))
    elif options.verb == "detach" and os.path.exists(state):
        with open(state) as file:
            subprocess.run(["losetup", "--detach", json.load(file)["device"]], check=True)
        os.unlink(state)


if __name__ == "__main__":
    main()
