"""diskshadow's language without a coordinator: lines, aliases, settings, errors, layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester.cli import UsageError
from shadowset.requester.windows.diskshadow import main
from shadowset.requester.windows.diskshadow.interpreter import COMMANDS, run_prompt, run_script
from shadowset.requester.windows.diskshadow.lines import is_comment, substitute, words
from shadowset.requester.windows.diskshadow.session import Session
from shadowset.requester.windows.diskshadow.settings import CONTEXTS, Settings
from shadowset.requester.windows.shadow_text import DISKSHADOW, VSHADOW, attributes_line, copy_text
from shadowset.requester.windows.writer_text import metadata_text, status_text
from shadowset.vss.enums import Attribute, BackupType, ComponentType, Context
from shadowset.vss.metadata import ComponentInfo, Dependency, ExcludedFiles, FileSet, WriterMetadata
from shadowset.vss.selection import Selector


def test_comments_and_words() -> None:
    assert all(is_comment(line) for line in ("", "  \n", "# x", "  #x", "rem", "REM add volume c:"))
    assert not any(is_comment(line) for line in ("remove", "add # no", "set"))
    assert words('add volume "/srv/my data" alias  d\t') == ["add", "volume", "/srv/my data", "alias", "d"]
    with pytest.raises(UsageError, match="quotation"):
        words('expose "x')


def test_aliases_are_found_in_any_case_and_before_the_environment() -> None:
    text, used = substitute("expose %VSS_shadow_1% %PLACE%", {"VSS_SHADOW_1": "{a}"}, {"PLACE": "/mnt"})
    assert text == "expose {a} /mnt"
    assert used == {"VSS_shadow_1": "{a}", "PLACE": "/mnt"}
    assert substitute("100 % sure %", {}, {}) == ("100 % sure %", {})
    with pytest.raises(UsageError, match="%nobody%"):
        substitute("expose %nobody% x", {"somebody": "{a}"}, {})


def test_settings_become_a_wish() -> None:
    settings = Settings()
    settings.set_context(["Persistent", "NoWriters"])
    settings.set_option(["differential", "noautorecover"])
    settings.add_volume(["/srv/data", "ALIAS", "data", "provider", "{7c}"])
    settings.add_volume(["wal"])
    settings.required.append(Selector.parse(r"Registry Writer:\Registry"))
    settings.full_backup = True
    wish = settings.wish()
    assert wish.volumes == (("/srv/data", "{7c}"), ("wal", ""))
    assert wish.context == Context.NAS_ROLLBACK | Attribute.DIFFERENTIAL | Attribute.NO_AUTORECOVERY
    assert wish.backup_type is BackupType.FULL and not wish.with_writers
    assert wish.required == (Selector("Registry Writer", "Registry"),)
    assert Settings().context_bits == Context.BACKUP
    assert len({int(context) for context in CONTEXTS.values()}) == len(CONTEXTS)
    assert "PERSISTENT NOWRITERS" in settings.text() and "/srv/data, wal" in settings.text()


@pytest.mark.parametrize(
    ("what", "given"),
    [
        ("set_context", ["clientaccessible", "nowriters"]),
        ("set_context", []),
        ("set_option", []),
        ("set_option", ["fast"]),
        ("set_option", ["plex", "differential"]),
        ("set_option", ["noautorecover", "txfrecover"]),
        ("set_option", ["rollbackrecover", "noautorecover"]),
        ("add_volume", ["c:", "alias"]),
        ("add_volume", ["c:", "alias", "a", "alias", "b"]),
        ("add_volume", ["c:", "called", "a"]),
    ],
)
def test_what_makes_no_sense_is_refused(what: str, given: list[str]) -> None:
    with pytest.raises(UsageError):
        getattr(Settings(), what)(given)


def test_a_script_stops_at_its_first_mistake_and_a_prompt_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["# begin", "set context persistent", "frobnicate", "set context volatile"]
    session = Session()
    assert run_script(session, lines) == 1
    assert session.settings.context == ("persistent",)
    shown = capsys.readouterr()
    assert "-> set context persistent" in shown.out and "-> set context volatile" not in shown.out
    assert "Error: there is no command 'frobnicate'" in shown.err
    script = iter([*lines, "add alias one {1}", "add", "exit", "set context persistent"])
    assert run_prompt(session, lambda prompt: next(script)) == 0
    assert session.settings.context == ("volatile",)
    assert "Alias: %one% = {1}" in capsys.readouterr().out
    assert next(script) == "set context persistent"


def test_commands_run_with_the_aliases_in_their_environment(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "work.sh"
    script.write_text('echo "shadow is $VSS_SHADOW_1"\ntest "$VSS_SHADOW_1" = "{1}"\n')
    session = Session()
    lines = ["add alias vss_shadow_1 {0}", "add alias VSS_SHADOW_1 {1}", f'exec "{script}"', "set"]
    assert run_script(session, lines) == 0
    assert "shadow is {1}" in capfd.readouterr().out
    assert run_script(session, ["add alias VSS_SHADOW_1 {2}", f'exec "{script}"', "set"]) == 1
    told = capfd.readouterr()
    assert "ended with status 1" in told.err and "-> set\n" not in told.out
    answers = iter([f'exec "{script}"', "set verbose on"])
    assert run_prompt(session, lambda prompt: next(answers)) == 1
    assert run_script(session, ["exec /nowhere/at/all"]) == 1


def test_everything_is_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.dsh").write_text("\ufeffset verbose on\nset\nmask {1}\n", encoding="utf-8")
    assert main(["/s", str(tmp_path / "s.dsh"), "-L", str(tmp_path / "log")]) == 1
    shown = capsys.readouterr()
    log = (tmp_path / "log").read_text()
    assert log == shown.out + shown.err
    assert "Verbose: ON" in log and "VSS_E_NOT_SUPPORTED" in log


@pytest.mark.parametrize("given", [["/s"], ["x"], ["/s", "/nowhere", "/s", "b"], ["-v", "x"]])
def test_wrong_usage_is_status_two(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given) == 2
    assert main(["/?"]) == 0
    assert "usage: diskshadow" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        "end backup",
        "end restore",
        "begin restore",
        "simulate restore",
        "create",
        "add volume",
        "add alias x",
        "set verbose maybe",
        "set metadata",
        "set nothing",
        "writer verify",
        "exec",
        "exec a b",
        "expose {1} p:",
        "expose {1} \\\\host\\share",
        "expose {1}",
        "unexpose",
        "revert",
        "list shadows",
        "list shadows set",
        "list writers some",
        "delete shadows volume",
        "import",
        "import a b",
        "break writable {1}",
        "break",
        "break writable {1} x y",
        "mask {1}",
        "load metadata /nowhere",
    ],
)
def test_each_refusal_is_one_sentence(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script(Session(), [line]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script(Session(), ["help"]) == 0
    shown = capsys.readouterr().out
    assert all(" ".join(command).upper() in shown for command in COMMANDS)


def test_the_layout_is_the_golden_one(golden: Callable[[str, str], None], copies: Any, writers: Any) -> None:
    copies[1].exposed_name = "/mnt/then"
    copies[2].attributes = Context.FILE_SHARE_BACKUP | Attribute.DIFFERENTIAL
    aliases = {copies[0].snapshot_id: "data", copies[0].snapshot_set_id: "VSS_SHADOW_SET"}
    golden("diskshadow-list-shadows", "\n".join(copy_text(copy, DISKSHADOW, aliases) for copy in copies))
    golden("vshadow-query", "\n".join(copy_text(copy, VSHADOW) for copy in copies))
    golden("writers-status", status_text(writers))
    writer = WriterMetadata(
        "5c5bd54e-8a0a-4ae5-a0a0-7a6cbb3d9f0e",
        "04cf6316-f0c5-4ce7-bbe4-e56e6334124c",
        "Mail Writer",
        components=(
            ComponentInfo(ComponentType.FILEGROUP, "stores"),
            ComponentInfo(
                ComponentType.DATABASE,
                "box",
                "stores",
                selectable=False,
                database_files=(FileSet("/srv/mail", "*.db", True),),
                log_files=(FileSet("/srv/logs", "*.log", alternate_path="/srv/old"),),
                dependencies=(Dependency("6f5bd54e-8a0a-4ae5-a0a0-7a6cbb3d9f0e", "", "index"),),
            ),
        ),
        exclude_files=(ExcludedFiles("/srv/mail", "*.tmp"),),
    )

    def where(files: FileSet) -> list[str]:
        return ["mail" if files.path == "/srv/mail" else "logs"]

    golden("writers-metadata", metadata_text([writer], where, detailed=False))
    golden("writers-detailed", metadata_text([writer], where, detailed=True))


def test_attributes_have_the_order_of_the_tools() -> None:
    assert attributes_line(Context.NAS_ROLLBACK | Attribute.DIFFERENTIAL) == (
        "No_Auto_Release Persistent No_Writers Differential"
    )
    assert attributes_line(Context.FILE_SHARE_BACKUP | Attribute.DIFFERENTIAL) == "Auto_Release No_Writers Differential"
