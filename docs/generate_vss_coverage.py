"""Write docs/vss-coverage.md from docs/vss-features.toml and the tests: python docs/generate_vss_coverage.py

A test proves a row of the table by carrying ``@pytest.mark.vss(row, …)``. A row has such tests or a reason why not;
the reason of a row that a test proves is taken out. With --check nothing is written: the exit status tells.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FEATURES = ROOT / "docs" / "vss-features.toml"
PAGE = ROOT / "docs" / "vss-coverage.md"
HEAD = """# What is proved of a volume shadow copy service

Made by `python docs/generate_vss_coverage.py` from `docs/vss-features.toml` and the `vss` marks of the tests; do not
edit. Each row names the tests that prove it, or says why none does.
"""

Proofs = dict[int, list[str]]


def is_mark(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.vss"


def proofs() -> Proofs:
    """The tests of each row, as links. Errors: ValueError for a mark that is on no test."""
    found: Proofs = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        used = 0
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = [part for each in node.decorator_list for part in ast.walk(each) if is_mark(part)]
                used += len(marks)
                rows = {row for mark in marks for row in map(ast.literal_eval, getattr(mark, "args", []))}
                for row in rows:
                    place = path.relative_to(ROOT)
                    found.setdefault(row, []).append(f"[{place.stem}::{node.name}](../{place})")
        if used != sum(map(is_mark, ast.walk(tree))):
            raise ValueError(f"{path} has a vss mark that is not a decorator of a test function")
    return found


def page(table: dict[str, Any], found: Proofs) -> str:
    lines = [HEAD]
    for part, title in table["parts"].items():
        lines += [f"## {part}. {title}\n", "| row | capability | proved by |", "|---|---|---|"]
        for each in table["feature"]:
            if each["part"] == part:
                proof = "<br>".join(found.get(each["row"], [])) or each["reason"]
                lines.append(f"| {each['row']} | {each['title']} | {proof} |")
        lines.append("")
    return "\n".join(lines)


def faults(table: dict[str, Any], found: Proofs) -> list[str]:
    """One sentence for each row with neither proof nor reason, or with both, and for each mark of no row."""
    rows = {each["row"]: each for each in table["feature"]}
    wrong = [
        f"row {row} is not in the table, but {tests[0]} proves it" for row, tests in found.items() if row not in rows
    ]
    for row, each in rows.items():
        if bool(each.get("reason")) == (row in found):
            wrong.append(f"row {row} has {'both' if row in found else 'neither'} a test and a reason why not")
    return wrong


def without_reasons(text: str, found: Proofs) -> str:
    """The table without the reasons of rows that tests prove."""
    for row in found:
        text = re.sub(rf"(\[\[feature\]\]\nrow = {row}\n.*\n.*\n)reason = .*\n", r"\1", text)
    return text


def main() -> int:
    found = proofs()
    check = "--check" in sys.argv
    if not check:
        FEATURES.write_text(without_reasons(FEATURES.read_text(), found))
    table = tomllib.loads(FEATURES.read_text())
    wrong = faults(table, found)
    for sentence in wrong:
        print(sentence)
    if wrong:
        return 1
    print(f"{len(found)} of {len(table['feature'])} rows are proved by tests")
    if check:
        return 0 if PAGE.exists() and PAGE.read_text() == page(table, found) else 1
    PAGE.write_text(page(table, found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
