"""A device layer that shows each device object as a symbolic link to the copied image."""

from __future__ import annotations

import argparse
import json
import os
import time


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--objects")
    parser.add_argument("--mount")
    parser.add_argument("--group")
    options = parser.parse_args()
    while True:
        wanted = {}
        for name in os.listdir(options.objects):
            if name.endswith(".json"):
                with open(f"{options.objects}/{name}") as file:
                    told = json.load(file)
                wanted[f"HarddiskVolumeShadowCopy{told['device_number']}"] = f"{told['storage']}/{told['copy_id']}.img"
        for name in set(os.listdir(options.mount)) - set(wanted):
            os.unlink(f"{options.mount}/{name}")
        for name in set(wanted) - set(os.listdir(options.mount)):
            os.symlink(wanted[name], f"{options.mount}/{name}")
        time.sleep(0.02)


if __name__ == "__main__":
    main()
