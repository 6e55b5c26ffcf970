"""The lists of writers and components that betest reads: the XML of /X and the lines of /C. Pure."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from shadowset.vss.codes import Code, VssError
from shadowset.vss.selection import Selector

SEPARATOR = "\\"
LINE = re.compile(r'\s*"([^"]+)"\s+:\s+("[^"]+"(?:\s*,\s*"[^"]+")*)\s*;', re.ASCII)
LARGEST_LIST = 1 << 20


def read_configuration(text: bytes, place: str) -> tuple[Selector, ...]:
    """The components of an XML configuration; a writer without any means all of its. Errors: E_INVALIDARG."""
    try:
        root = fromstring(text, forbid_dtd=True)
        if root.tag != "BETest":
            raise ValueError(f"the root element is {root.tag} and has to be BETest")
        found = [selector for writer in root for selector in _of_writer(writer)]
    except DefusedXmlException as error:
        raise VssError(Code.E_INVALIDARG, f"{place}: document types and entities are not accepted") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise VssError(Code.E_INVALIDARG, f"{place}: {error}") from error
    if not found:
        raise VssError(Code.E_INVALIDARG, f"{place} names no writer; give at least one Writer element")
    return tuple(found)


def _of_writer(writer: ElementTree.Element) -> list[Selector]:
    _check(writer, "Writer", ("writerid",))
    name = writer.get("writerid", "")
    if not name:
        raise ValueError("a Writer element needs a writerid")
    selectors = []
    for component in writer:
        _check(component, "Component", ("componentName", "logicalPath"))
        path = component.get("logicalPath", "").strip(SEPARATOR)
        own = component.get("componentName", "")
        if not own or len(component):
            raise ValueError("a Component element needs a componentName and has no elements in it")
        selectors.append(Selector(name, f"{path}{SEPARATOR}{own}" if path else own))
    return selectors or [Selector(name)]


def _check(element: ElementTree.Element, tag: str, known: tuple[str, ...]) -> None:
    if element.tag != tag:
        raise ValueError(f"there is an element {element.tag} where {tag} is known")
    unknown = [name for name in element.attrib if name not in known]
    if unknown:
        raise ValueError(f"{tag} has no attribute {unknown[0]}; known are {', '.join(known)}")


def read_list(text: str, place: str) -> tuple[Selector, ...]:
    """The components of a list of the old form. Errors: E_INVALIDARG naming where it goes wrong."""
    if len(text) > LARGEST_LIST:
        raise VssError(Code.E_INVALIDARG, f"{place} is larger than 1 MiB; name fewer components")
    found: list[Selector] = []
    position = 0
    while text[position:].strip():
        line = LINE.match(text, position)
        if line is None:
            rest = text[position : position + 40].strip()
            raise VssError(
                Code.E_INVALIDARG, f'{place} goes wrong at {rest!r}; write "writer id" : "component", "component";'
            )
        found += [Selector(line[1], name.strip(SEPARATOR)) for name in re.findall('"([^"]+)"', line[2])]
        position = line.end()
    return tuple(found)
