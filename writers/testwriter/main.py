"""``shadowset-test-writer CONFIG``: a writer that behaves, checks and fails as a configuration file says."""

from __future__ import annotations

import argparse
import logging
import sys

from shadowset.vss.codes import Code, VssError
from shadowset.writers.sdk import run_until_signal
from shadowset.writers.testwriter.settings import Settings, read_settings
from shadowset.writers.testwriter.toml_config import toml_table
from shadowset.writers.testwriter.writer import ConfiguredWriter
from shadowset.writers.testwriter.xml_config import xml_table

LARGEST_CONFIG = 1 << 20
VERBOSITY = {"low": logging.WARNING, "medium": logging.INFO, "high": logging.DEBUG}
READERS = {".xml": xml_table, ".toml": toml_table}


def load(path: str) -> Settings:
    """A configuration from a file. Errors: E_INVALIDARG, one sentence with file, place and allowed values."""
    reader = next((reader for ending, reader in READERS.items() if path.lower().endswith(ending)), None)
    if reader is None:
        raise VssError(Code.E_INVALIDARG, f"{path}: a configuration is named *.xml or *.toml; rename it")
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST_CONFIG + 1)
    except OSError as error:
        raise VssError(Code.E_INVALIDARG, f"{path} cannot be read: {error.strerror}") from error
    if len(text) > LARGEST_CONFIG:
        raise VssError(Code.E_INVALIDARG, f"{path} is larger than 1 MiB, which no configuration is; name another file")
    return read_settings(reader(text, path))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        "shadowset-test-writer",
        description="VSS writer for tests of requesters: it describes, checks and fails as its configuration says.\n"
        "Stop it with Ctrl-C. docs/test-writer.md tells what a configuration holds.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("config", metavar="CONFIG", help="a file *.xml (the published form) or *.toml")
    arguments.add_argument("--check", action="store_true", help="only check the configuration")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Runs until SIGTERM or SIGINT. Exit status 1 with one sentence when it cannot."""
    options = parser().parse_args(argv)
    try:
        settings = load(options.config)
        if options.check:
            return 0
        logging.basicConfig(level=VERBOSITY[settings.verbosity], format="%(message)s", stream=sys.stdout)
        run_until_signal(ConfiguredWriter(settings))
    except VssError as error:
        print(f"shadowset-test-writer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
