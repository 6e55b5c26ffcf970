"""vshadow's flags without a coordinator, and the variables that it hands to scripts."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from shadowset.requester.cli import UsageError
from shadowset.requester.windows.vshadow import main
from shadowset.requester.windows.vshadow.options import COMMANDS, FLAGS, parse_options, usage
from shadowset.requester.windows.vshadow.variables import shell_script, variables
from shadowset.vss.enums import Attribute, Context


@pytest.mark.parametrize(
    ("flags", "context"),
    [
        ([], Context.BACKUP),
        (["-nw"], Context.FILE_SHARE_BACKUP),
        (["-p"], Context.APP_ROLLBACK),
        (["-P", "-NW"], Context.NAS_ROLLBACK),
        (["-scsf"], Context.CLIENT_ACCESSIBLE_WRITERS),
        (["-scsf", "-nw", "-p"], Context.CLIENT_ACCESSIBLE),
        (["-p", "-nar", "-ad"], Context.APP_ROLLBACK | Attribute.NO_AUTORECOVERY | Attribute.DIFFERENTIAL),
        (["-tr", "-ap"], Context.BACKUP | Attribute.TXF_RECOVERY | Attribute.PLEX),
        (["-t=bc.xml"], Context.BACKUP | Attribute.TRANSPORTABLE),
    ],
)
def test_flags_make_the_context(flags: list[str], context: int) -> None:
    options = parse_options([*flags, "/srv/data"])
    assert (options.command, options.volumes, options.context) == ("create", ["/srv/data"], int(context))


def test_values_and_repeated_flags() -> None:
    given = ["-wi=Registry Writer:\\Registry", "-wi={aa}", "-script=a=b.sh", "-exec=run.sh", "one", "two"]
    options = parse_options(given)
    assert options.flags["wi"] == ["Registry Writer:\\Registry", "{aa}"]
    assert (options.of("script"), options.of("exec"), options.volumes) == ("a=b.sh", "run.sh", ["one", "two"])
    assert parse_options(["-el={aa},/mnt"]).value == "{aa},/mnt"
    assert (parse_options(["-do"]).value, parse_options(["-do=data"]).value) == ("", "data")
    assert parse_options(["-r=bc.xml", "-exec=x"]).command == "r"
    assert parse_options(["-bex={aa}", "-rw"]).value == "{aa}"
    assert parse_options(["-addresync={aa}", "-resync=bc.xml", "-novolcheck"]).command == "resync"


@pytest.mark.parametrize(
    "given",
    [
        ["-p"],
        ["-frob", "one"],
        ["-p=1", "one"],
        ["-exec", "one"],
        ["-exec=", "one"],
        ["-q", "one"],
        ["-q", "-da"],
        ["-q", "-p"],
        ["-s"],
        ["-script=a", "-script=b", "one"],
        ["-ad", "-ap", "one"],
        ["-t=a", "-bc=b", "one"],
        ["-nw", "-wi=X", "one"],
        ["-nw", "-bc=x", "one"],
        ["-r=bc.xml", "-script=x"],
        ["-rw", "one"],
        ["-bex={aa},/x", "-norevert", "-forcerevert"],
    ],
)
def test_what_makes_no_sense_is_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError):
        parse_options(given)
    assert main(given) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "given",
    [
        ["-i=bc.xml"],
        ["-b={aa}"],
        ["-bw={aa}"],
        ["-bex", "-rw"],
        ["-bex={aa},/x", "-mask"],
        ["-er={aa},share"],
        ["-resync=x"],
        ["-el={aa},x:"],
    ],
)
def test_what_cannot_be_done_is_one_sentence_with_its_code(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: ") and line.endswith(("VSS_E_NOT_SUPPORTED (0x8004232F)]", "0x80070057)]"))


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert usage() in shown
    assert all(f"  -{name}" in shown for name in (*COMMANDS, *FLAGS))


def test_a_shell_reads_the_script(golden: Callable[[str, str], None], copies: Any) -> None:
    copies[1].device_object = "/run/it's here/$HOME"
    text = shell_script(variables(copies[0].snapshot_set_id, copies[:2]))
    golden("vshadow-script", text)
    shown = subprocess.run(
        ["/bin/sh", "-c", f'{text}\nprintf "%s|" "$VSHADOW_SET_ID" "$SHADOW_ID_1" "$VSHADOW_DEVICE_2"'],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    assert shown.split("|")[:3] == [
        f"{{{copies[0].snapshot_set_id}}}",
        f"{{{copies[0].snapshot_id}}}",
        "/run/it's here/$HOME",
    ]
