"""Write man pages and shell completions of all programs, from their own command lines.

    python docs/generate_manual.py DIRECTORY

makes DIRECTORY/man8/PROGRAM.8 for each program, and DIRECTORY/completions/{bash,zsh}/ for those that the shells can
complete. It needs argparse-manpage and shtab.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import re
import sys
import tomllib
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from shadowset import __version__

ROOT = Path(__file__).resolve().parents[1]
SECTION = "8"
DATE = ""  # pages of one version are the same whenever they are made
SUBPROGRAMS = {
    "shadowset-provider-check": "shadowset.nbd_provider.check_command",
    "shadowset-provider-set-aside": "shadowset.nbd_provider.set_aside_command",
    "shadowset-provider-move": "shadowset.nbd_provider.move_command",
    "shadowset-provider-revert": "shadowset.nbd_provider.revert_command",
}
SEE_ALSO = (
    "shadowset", "shadowsetd", "shadowset-provider", "shadowset-attach", "shadowset-export", "shadowset-remote",
    "shadowset-fuse"
)  # fmt: skip


def programs() -> dict[str, str]:
    """Name and module of each program."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    return {name: target.partition(":")[0] for name, target in scripts.items()} | SUBPROGRAMS


def parser_of(module: str) -> argparse.ArgumentParser | None:
    """The program's parser; None for those that take Windows's switches."""
    make = getattr(importlib.import_module(module), "parser", None)
    return make() if make is not None else None


def page(name: str, module: str) -> str:
    """The man page of a program."""
    parser = parser_of(module)
    if parser is None:
        return plain_page(name, help_text(module))
    parser.prog = name.replace("provider-", "provider ")
    parser.man_short_description = short(parser.description or "")  # type: ignore[attr-defined]
    epilog, parser.epilog = parser.epilog, None
    made = Manpage(parser, format="single-commands-section")
    made.section, made.source, made.manual = SECTION, f"Shadowset {__version__}", "Shadowset"
    made.date = DATE
    return titled(f"{made}\n", name) + examples(epilog) + see_also(name)


def titled(text: str, name: str) -> str:
    """With the page's own name in title and NAME, where a command of two words stands in the synopsis."""
    text = re.sub(r"\A\.TH .*? \"", lambda _: f'.TH {escape(name.upper())} "', text)
    return re.sub(r"(?<=^\.SH NAME\n).*?(?= \\- )", lambda _: escape(name), text, count=1, flags=re.MULTILINE)


def short(text: str) -> str:
    """The first sentence, as ``NAME`` wants it."""
    first = re.split(r"(?<=[.:])\s", " ".join(text.split()), maxsplit=1)[0].rstrip(".:")
    return first[:1].lower() + first[1:]


def escape(text: str) -> str:
    """Text that stands as it is."""
    lines = text.replace("\\", "\\\\").replace("-", "\\-").split("\n")
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in lines)


def examples(epilog: str | None) -> str:
    """The end of the program's help, in its own lines."""
    return f".SH NOTES\n.nf\n{escape(epilog.strip())}\n.fi\n" if epilog else ""


def see_also(name: str) -> str:
    """The other programs."""
    others = ", ".join(f".BR {escape(other)} ({SECTION})" for other in SEE_ALSO if other != name)
    return ".SH SEE ALSO\n" + others.replace(", .BR", " ,\n.BR") + "\n"


def help_text(module: str) -> str:
    """What a program says of itself."""
    output = io.BytesIO()
    with io.TextIOWrapper(output, encoding="utf-8") as text, contextlib.redirect_stdout(text):
        importlib.import_module(module).main(["--help"])
        text.flush()
        return output.getvalue().decode()


def plain_page(name: str, text: str) -> str:
    """The page of a program that has Windows's switches: its own help."""
    return (
        f'.TH {escape(name.upper())} "{SECTION}" "" "Shadowset {__version__}" "Shadowset"\n'
        f".SH NAME\n{escape(name)} \\- the Windows command of this name, for Shadowset\n"
        f".SH DESCRIPTION\n.nf\n{escape(text.rstrip())}\n.fi\n{see_also(name)}"
    )


def main(arguments: list[str]) -> int:
    """Write everything."""
    usage = argparse.ArgumentParser(description="Write the manual pages and shell completions.")
    usage.add_argument("directory", type=Path, metavar="DIRECTORY")
    top = usage.parse_args(arguments).directory
    (top / f"man{SECTION}").mkdir(parents=True, exist_ok=True)
    for name, module in programs().items():
        (top / f"man{SECTION}" / f"{name}.{SECTION}").write_text(page(name, module))
        parser = parser_of(module)
        if parser is not None and name not in SUBPROGRAMS:
            for shell in ("bash", "zsh"):
                directory = top / "completions" / shell
                directory.mkdir(parents=True, exist_ok=True)
                target = name if shell == "bash" else f"_{name}"
                (directory / target).write_text(shtab.complete(parser, shell=shell))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
