"""HTML as elements, so that no text from elsewhere is ever taken for markup; pure."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree

from shadowset.requester.sentences import printable

Element = ElementTree.Element
Child = Element | str | None


def el(tag: str, *children: Child, **attributes: str | float) -> Element:
    """An element with text and elements in it; ``class_`` and ``text_anchor`` are written class and text-anchor."""
    made = Element(tag, {name.rstrip("_").replace("_", "-"): _text(value) for name, value in attributes.items()})
    last: Element | None = None
    for child in children:
        if isinstance(child, str):
            text = printable(child)
            if last is None:
                made.text = (made.text or "") + text
            else:
                last.tail = (last.tail or "") + text
        elif child is not None:
            made.append(child)
            last = child
    return made


def _text(value: str | float) -> str:
    return printable(value) if isinstance(value, str) else f"{value:g}"


def link(text: str, target: str) -> Element:
    """A link within the page."""
    return el("a", text, href=target)


def table(headings: Iterable[str], rows: Iterable[Iterable[Child]], empty: str) -> Element:
    """A table, or a sentence where there are no rows."""
    lines = [el("tr", *(cell if _is_cell(cell) else el("td", cell) for cell in row)) for row in rows]
    if not lines:
        return el("p", empty, class_="empty")
    head = el("thead", el("tr", *(el("th", text) for text in headings)))
    return el("table", head, el("tbody", *lines))


def _is_cell(child: Child) -> bool:
    return isinstance(child, Element) and child.tag == "td"


def number(text: str) -> Element:
    """A cell whose text stands at the right."""
    return el("td", text, class_="number")


def document(title: str, *body: Child) -> bytes:
    """The whole page."""
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width"),
        el("title", f"{title} - Shadowset"),
        el("link", rel="stylesheet", href="/style.css"),
    )
    places = (("Overview", "/"), ("Shadow copies", "/copies"), ("Backups", "/backups"), ("Events", "/events"))
    navigation = el("nav", el("strong", "Shadowset"), *(link(text, target) for text, target in places))
    page = el("html", head, el("body", navigation, el("main", el("h1", title), *body)), lang="en")
    text = ElementTree.tostring(page, encoding="unicode", method="html")
    return b"<!doctype html>\n" + text.encode("utf-8", "replace")


STYLE = """\
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; color: #1c2430; background: #f5f6f8; }
nav { display: flex; gap: 1.5em; padding: .7em 2em; background: #1f3a5f; color: #fff; }
nav a { color: #dce6f5; text-decoration: none; } nav a:hover { text-decoration: underline; }
main { max-width: 1100px; margin: 0 auto; padding: 1em 2em 3em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 1.8em; }
table { border-collapse: collapse; width: 100%; background: #fff; }
th, td { text-align: left; padding: .35em .7em; border-bottom: 1px solid #e3e6ea; vertical-align: top; }
th { font-weight: 600; background: #eceff3; white-space: nowrap; } td.number { text-align: right; white-space: nowrap; }
.good { color: #1b6e34; } .bad { color: #a3201f; font-weight: 600; } .empty { color: #667; }
.bar { fill: #dfe4ea; } .fill { fill: #3a6ea5; } .full { fill: #a3201f; } .line { fill: none; stroke: #3a6ea5; }
.area { fill: #c9d9ec; } .limit { stroke: #a3201f; stroke-dasharray: 4 3; } .axis { stroke: #b9c0c9; }
svg text { font-size: 12px; fill: #445; } .span { fill: #3a6ea5; } .failed { fill: #a3201f; }
form { margin: 1em 0; } code { overflow-wrap: anywhere; }
"""
