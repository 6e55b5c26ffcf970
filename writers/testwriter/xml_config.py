"""A configuration as XML, in the published form: a TestWriter element whose first child is a RestoreMethod."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from shadowset.vss.codes import Code, VssError
from shadowset.writers.testwriter.table import Table

MAX_DEPTH = 8
ELEMENTS = {
    name: "".join(part.capitalize() for part in name.split("_"))
    for name in (
        "restore_method", "alternate_location_mapping", "exclude_file", "component", "component_file", "dependency",
        "partial_file", "differenced_file", "directed_target", "fail_event", "action", "fail_component",
    )
}  # fmt: skip


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def spell(name: str) -> str:
    """How the XML form writes a name: elements begin with a capital letter, attributes do not."""
    if name in ELEMENTS:
        return ELEMENTS[name]
    first, *others = name.split("_")
    return first + "".join(part.capitalize() for part in others)


def _values(element: ElementTree.Element, depth: int = 0) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise ValueError(f"elements are nested more than {MAX_DEPTH} deep")
    if (element.text or "").strip() or any((child.tail or "").strip() for child in element):
        raise ValueError(f"the element {element.tag} holds text; write attributes")
    values: dict[str, Any] = {}
    for name, value in element.attrib.items():
        if spell(_snake(name)) != name:
            raise ValueError(f"the element {element.tag} has no attribute {name}")
        values[_snake(name)] = value
    for child in element:
        if ELEMENTS.get(_snake(child.tag)) != child.tag:
            raise ValueError(f"there is no element {child.tag}; known are {', '.join(ELEMENTS.values())}")
        values.setdefault(_snake(child.tag), []).append(_values(child, depth + 1))
    return values


def xml_table(text: bytes, place: str) -> Table:
    """The root. Errors: E_INVALIDARG."""
    try:
        root = fromstring(text, forbid_dtd=True)
        if root.tag != "TestWriter":
            raise ValueError(f"the root element is {root.tag} and has to be TestWriter")
        if not len(root) or root[0].tag != "RestoreMethod":
            raise ValueError("the first element in TestWriter has to be RestoreMethod")
        return Table(_values(root), f"{place}: TestWriter", spell)
    except DefusedXmlException as error:
        raise VssError(Code.E_INVALIDARG, f"{place}: document types and entities are not accepted") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise VssError(Code.E_INVALIDARG, f"{place}: {error}") from error
