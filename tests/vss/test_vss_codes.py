"""Codes have the numbers of the public headers, and are shown by number and by name."""

from __future__ import annotations

import pytest

from shadowset.vss.codes import Code, VssError, code_name, describe, split_code

PUBLISHED = {
    "E_NOTIMPL": 0x80004001,
    "E_UNEXPECTED": 0x8000FFFF,
    "E_ACCESSDENIED": 0x80070005,
    "E_OUTOFMEMORY": 0x8007000E,
    "E_INVALIDARG": 0x80070057,
    "VSS_S_ASYNC_PENDING": 0x00042309,
    "VSS_S_ASYNC_FINISHED": 0x0004230A,
    "VSS_S_ASYNC_CANCELLED": 0x0004230B,
    "VSS_E_BAD_STATE": 0x80042301,
    "VSS_E_PROVIDER_VETO": 0x80042306,
    "VSS_E_OBJECT_NOT_FOUND": 0x80042308,
    "VSS_E_OBJECT_ALREADY_EXISTS": 0x8004230D,
    "VSS_E_CORRUPT_XML_DOCUMENT": 0x80042310,
    "VSS_E_INVALID_XML_DOCUMENT": 0x80042311,
    "VSS_E_FLUSH_WRITES_TIMEOUT": 0x80042313,
    "VSS_E_HOLD_WRITES_TIMEOUT": 0x80042314,
    "VSS_E_SNAPSHOT_SET_IN_PROGRESS": 0x80042316,
    "VSS_E_MAXIMUM_NUMBER_OF_SNAPSHOTS_REACHED": 0x80042317,
    "VSS_E_INSUFFICIENT_STORAGE": 0x8004231F,
    "VSS_E_REVERT_IN_PROGRESS": 0x80042325,
    "VSS_E_NESTED_VOLUME_LIMIT": 0x8004232C,
    "VSS_E_WRITERERROR_PARTIAL_FAILURE": 0x80042336,
    "VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT": 0x800423F0,
    "VSS_E_WRITERERROR_OUTOFRESOURCES": 0x800423F1,
    "VSS_E_WRITERERROR_TIMEOUT": 0x800423F2,
    "VSS_E_WRITERERROR_RETRYABLE": 0x800423F3,
    "VSS_E_WRITERERROR_NONRETRYABLE": 0x800423F4,
    "VSS_E_WRITERERROR_RECOVERY_FAILED": 0x800423F5,
    "VSS_E_AUTORECOVERY_FAILED": 0x800423FB,
    "VSS_E_RESYNC_IN_PROGRESS": 0x800423FF,
    "VSS_E_WRITER_STATUS_NOT_AVAILABLE": 0x80042409,
    "VSS_E_FSS_TIMEOUT": 0x80042417,
}


@pytest.mark.parametrize(("name", "number"), PUBLISHED.items())
def test_published_numbers(name: str, number: int) -> None:
    assert Code[name] == number
    assert code_name(number) == name
    assert describe(number) == f"{name} (0x{number:08X})"


def test_each_number_has_one_name() -> None:
    assert len(Code.__members__) == len({int(code) for code in Code})


def test_severity_goes_with_the_name() -> None:
    for code in Code:
        failed = code.name.startswith(("E_", "VSS_E_"))
        assert bool(code & 0x80000000) is failed
        if code.name.startswith("VSS_"):
            assert (code >> 16) & 0x7FFF == 4


def test_unknown_numbers_stay_numbers() -> None:
    assert code_name(0x80070002) == "0x80070002"
    assert describe(0x80070002) == "0x80070002"
    assert code_name(5) == "0x00000005"


def test_an_error_says_what_happened_and_its_code() -> None:
    error = VssError(Code.VSS_E_BAD_STATE, "call things in order", application_code=7)
    assert str(error) == "call things in order [VSS_E_BAD_STATE (0x80042301)]"
    assert (error.code, error.message, error.application_code) == (0x80042301, "call things in order", 7)


def test_an_error_printed_by_another_process_keeps_its_code() -> None:
    for number in (*Code, 0x80041234):
        assert split_code(str(VssError(number, "two [of] them")), 1) == ("two [of] them", number)
    assert split_code("no code [here]", 1) == ("no code [here]", 1)
