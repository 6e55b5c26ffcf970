"""What both documents share: writing attributes that XML can hold, and reading documents that strangers made.

Reading tells two failures apart, as VSS does. *Corrupt*: not well-formed, truncated or hostile (document type,
entities, too large, too deep). *Invalid*: well-formed, but not the document it should be. A document is UTF-8, or
UTF-16 with a byte order mark; what its XML declaration says about the encoding does not count.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import NoReturn, TypeVar
from xml.etree import ElementTree

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from shadowset.vss.codes import Code, VssError

MAX_DOCUMENT = 16 * 1024 * 1024
MAX_DEPTH = 32
MAX_ELEMENTS = 500_000
VERSIONS = ("1.0", "1.1", "1.2")
OWN_NAMESPACE = "urn:shadowset:documents:1"
OWN_PREFIX = "s"

E = TypeVar("E", bound=IntEnum)

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NUMBER = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_CODE = re.compile(r"0x[0-9A-Fa-f]{8}", re.ASCII)
_NUMBER_RANGE = range(-(2**63), 2**64)


# ---- writing ----


def forbidden_character(text: str) -> str:
    """The first character that XML 1.0 cannot hold, as ``U+0000``, or an empty string."""
    found = _FORBIDDEN.search(text)
    return f"U+{ord(found.group()):04X}" if found else ""


def yes_no(value: bool) -> str:
    """A truth value as both documents spell it."""
    return "yes" if value else "no"


def word(words: Mapping[E, str], value: E, place: str) -> str:
    """The document's word for an enumeration value.

    Errors: E_INVALIDARG where the document has none; ``place`` says what was to be written.
    """
    try:
        return words[value]
    except KeyError:
        raise VssError(Code.E_INVALIDARG, f"{place} cannot be written as XML with the value {value!r}") from None


def number(value: int, place: str) -> str:
    """A whole number in decimal. Errors: E_INVALIDARG beyond 64 bits."""
    if int(value) not in _NUMBER_RANGE:
        raise VssError(Code.E_INVALIDARG, f"{place} does not fit into 64 bits and cannot be written as XML")
    return str(int(value))


def code_text(value: int, place: str) -> str:
    """A result code as ``0x`` and eight digits. Errors: E_INVALIDARG when it is no 32-bit number."""
    if not 0 <= value < 2**32:
        raise VssError(Code.E_INVALIDARG, f"{place} is no 32-bit result code and cannot be written as XML")
    return f"0x{value:08X}"


def encode_bytes(data: bytes) -> str:
    """Binary data as an attribute value."""
    return base64.b64encode(data).decode("ascii")


def encode_text(text: str, place: str) -> str:
    """Text with any characters as an attribute value. Errors: E_INVALIDARG for half a surrogate pair."""
    try:
        return encode_bytes(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise VssError(Code.E_INVALIDARG, f"{place} holds text that is not Unicode: {error.reason}") from error


def root_element(tag: str, namespace: str, attributes: Mapping[str, str | None]) -> ElementTree.Element:
    """The root of a new document; see ``add`` for the attributes."""
    own = {f"xmlns:{OWN_PREFIX}": OWN_NAMESPACE}
    names: dict[str, str | None] = {"xmlns": namespace, **own, "version": VERSIONS[-1]}
    return ElementTree.Element(tag, _checked(tag, {**names, **attributes}))


def add(parent: ElementTree.Element, tag: str, attributes: Mapping[str, str | None]) -> ElementTree.Element:
    """A new last child; attributes that are None are left out.

    Errors: E_INVALIDARG for a character that XML 1.0 cannot hold.
    """
    return ElementTree.SubElement(parent, tag, _checked(tag, attributes))


def _checked(tag: str, attributes: Mapping[str, str | None]) -> dict[str, str]:
    kept = {name: value for name, value in attributes.items() if value is not None}
    for name, value in kept.items():
        bad = forbidden_character(value)
        if bad:
            raise VssError(
                Code.E_INVALIDARG,
                f"{tag}/{name} holds the character {bad}, which XML cannot hold; take it out of {value[:60]!r}",
            )
    return kept


def to_text(root: ElementTree.Element) -> str:
    """The document, indented, with a declaration and a last newline. Errors: E_INVALIDARG over ``MAX_DOCUMENT``."""
    ElementTree.indent(root)
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'
    size = len(text.encode("utf-8"))
    if size > MAX_DOCUMENT:
        raise VssError(Code.E_INVALIDARG, f"the document has {size} bytes, over the limit of {MAX_DOCUMENT} bytes")
    return text


# ---- reading ----


def corrupt(document: str, why: str) -> VssError:
    """The error for a document that is no usable XML at all."""
    return VssError(
        Code.VSS_E_CORRUPT_XML_DOCUMENT, f"the {document} is corrupt: {why}; take another copy of the document"
    )


class _Tree(ElementTree.TreeBuilder):
    """Builds a tree and stops before a hostile document costs much."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0
        self._elements = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> ElementTree.Element:
        self._depth += 1
        self._elements += 1
        if self._depth > MAX_DEPTH:
            raise ValueError(f"elements are nested more than {MAX_DEPTH} deep")
        if self._elements > MAX_ELEMENTS:
            raise ValueError(f"there are more than {MAX_ELEMENTS} elements")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ElementTree.Element:
        self._depth -= 1
        return super().end(tag)


def _utf8(source: str | bytes) -> bytes:
    if isinstance(source, bytes) and len(source) <= MAX_DOCUMENT:
        utf16 = source.startswith((b"\xff\xfe", b"\xfe\xff"))
        source = source.decode("utf-16" if utf16 else "utf-8-sig")
    if len(source) > MAX_DOCUMENT:
        raise ValueError(f"it is larger than {MAX_DOCUMENT} bytes")
    data = source if isinstance(source, bytes) else source.encode("utf-8")
    if len(data) > MAX_DOCUMENT:
        raise ValueError(f"it is larger than {MAX_DOCUMENT} bytes")
    return data


def parse(document: str, source: str | bytes, tag: str, namespace: str) -> Node:
    """The root of a document, checked for its name, namespace and version.

    ``document`` is what messages call it. Errors: VSS_E_CORRUPT_XML_DOCUMENT, VSS_E_INVALID_XML_DOCUMENT.
    """
    node = Node(document, namespace, _root(document, source))
    if node.tag != tag:
        node.refuse(f"its root element is {node.tag} and should be {tag}")
    node.choice("version", VERSIONS)
    return node


def root_name(document: str, source: str | bytes) -> str:
    """The name of a document's root element without its namespace. Errors: VSS_E_CORRUPT_XML_DOCUMENT."""
    return _root(document, source).tag.rpartition("}")[2]


def _root(document: str, source: str | bytes) -> ElementTree.Element:
    try:
        parser = DefusedXMLParser(target=_Tree(), encoding="utf-8", forbid_dtd=True)
        parser.feed(_utf8(source))
        root: ElementTree.Element = parser.close()
    except DefusedXmlException as error:
        raise corrupt(document, "it brings a document type or entities, which are not accepted") from error
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise corrupt(document, str(error)) from error
    return root


class Node:
    """One element while it is read. ``done`` refuses the attributes that nobody asked for."""

    def __init__(self, document: str, namespace: str, element: ElementTree.Element) -> None:
        self._document = document
        self._namespace = namespace
        self._element = element
        self._attributes: dict[str, str] = dict(element.attrib)
        self.tag = self._local_name()
        if (element.text or "").strip() or (element.tail or "").strip():
            self.refuse(f"there is text in or after element {self.tag}, which should have attributes only")

    def _local_name(self) -> str:
        name = self._element.tag
        own = f"{{{self._namespace}}}"
        # documents made on Windows leave the metadata elements without a namespace
        if not name.startswith(own) and name not in ("BACKUP_METADATA", "RESTORE_METADATA"):
            self.refuse(f"element {name} is not in the namespace {self._namespace}")
        return name.removeprefix(own)

    def refuse(self, why: str) -> NoReturn:
        """End with VSS_E_INVALID_XML_DOCUMENT."""
        raise VssError(Code.VSS_E_INVALID_XML_DOCUMENT, f"the {self._document} is invalid: {why}")

    def _refuse_value(self, name: str, value: str, wanted: str) -> NoReturn:
        self.refuse(f"attribute {name} of element {self.tag} is {value[:60]!r} and should be {wanted}")

    def _take(self, name: str) -> str | None:
        prefix = f"{OWN_PREFIX}:"
        key = f"{{{OWN_NAMESPACE}}}{name[len(prefix) :]}" if name.startswith(prefix) else name
        return self._attributes.pop(key, None)

    def text(self, name: str, default: str | None = None) -> str:
        """An attribute; without a default it must be there. Names with ``s:`` are in our own namespace."""
        value = self._take(name)
        if value is None:
            value = default
        if value is None:
            self.refuse(f"element {self.tag} has no attribute {name}")
        return value

    def choice(self, name: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        """An attribute that is one of a few words."""
        value = self.text(name, default)
        if value not in allowed:
            self._refuse_value(name, value, f"one of {', '.join(allowed)}")
        return value

    def truth(self, name: str, default: bool | None = None) -> bool:
        """An attribute that is ``yes`` or ``no``."""
        return self.choice(name, ("yes", "no"), None if default is None else yes_no(default)) == "yes"

    def word(self, name: str, words: Mapping[E, str], default: E | None = None) -> E:
        """An attribute that is a word of an enumeration."""
        chosen = self.choice(name, tuple(words.values()), None if default is None else words[default])
        return next(value for value, text in words.items() if text == chosen)

    def number(self, name: str, default: int | None = None) -> int:
        """An attribute that is a whole number in decimal."""
        value = self.text(name, None if default is None else str(default))
        if not _NUMBER.fullmatch(value) or int(value) not in _NUMBER_RANGE:
            self._refuse_value(name, value, "a decimal number of at most 64 bits")
        return int(value)

    def code(self, name: str, default: int = 0) -> int:
        """An attribute that is a result code."""
        value = self.text(name, f"0x{default:08X}")
        if not _CODE.fullmatch(value):
            self._refuse_value(name, value, "0x and eight hexadecimal digits")
        return int(value, 16)

    def data(self, name: str) -> bytes:
        """An attribute that is binary data; empty when absent."""
        value = self.text(name, "")
        try:
            return binascii.a2b_base64(value.encode("ascii"), strict_mode=True)
        except ValueError:
            self._refuse_value(name, value, "base64")

    def encoded_text(self, name: str) -> str:
        """An attribute that is text in base64; empty when absent."""
        try:
            return self.data(name).decode("utf-8")
        except UnicodeDecodeError:
            self.refuse(f"attribute {name} of element {self.tag} is base64 of something that is not UTF-8 text")

    def done(self) -> None:
        """Refuse attributes that nobody asked for."""
        for name in self._attributes:
            self.refuse(f"element {self.tag} has an attribute {name}, which is not known there")

    def children(self, *allowed: str) -> Iterator[Node]:
        """The child elements in their order; others than those allowed are refused."""
        for element in self._element:
            child = Node(self._document, self._namespace, element)
            if child.tag not in allowed:
                self.refuse(f"element {child.tag} is not known in element {self.tag}")
            yield child

    def leaves(self, *allowed: str) -> Iterator[Node]:
        """As ``children``, for elements that have none of their own and are finished after their turn."""
        for child in self.children(*allowed):
            yield child
            child.leaf()

    def leaf(self) -> None:
        """Refuse child elements and attributes that nobody asked for."""
        self.done()
        for _ in self.children():
            pass

    def only(self, children: Mapping[str, Node], tag: str) -> Node:
        """The child with this name, which must be there."""
        if tag not in children:
            self.refuse(f"element {self.tag} has no element {tag}")
        return children[tag]
