"""Either document in either form: XML, or its JSON twin, which has the same fields under the names of this library.

The twin says which document it is: ``{"document": "writer-metadata", "content": {…}}``. Enumerations stand in it as
their numbers, binary data as base64.
"""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import BackupComponentsDocument
from shadowset.vss.documents import xml
from shadowset.vss.documents.components_xml import components_from_xml, components_to_xml
from shadowset.vss.documents.metadata_xml import metadata_from_xml, metadata_to_xml
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.validate import validate_metadata
from shadowset.vss.validate_components import validate_components

Document: TypeAlias = WriterMetadata | BackupComponentsDocument


class MetadataTwin(msgspec.Struct, tag="writer-metadata", tag_field="document"):
    """A writer metadata document as JSON."""

    content: WriterMetadata


class ComponentsTwin(msgspec.Struct, tag="backup-components", tag_field="document"):
    """A backup components document as JSON."""

    content: BackupComponentsDocument


def is_json(data: bytes) -> bool:
    """Whether this is meant as a JSON twin: XML never begins with a brace."""
    return data[:256].lstrip().startswith(b"{")


def read_document(data: bytes) -> Document:
    """Either document, from XML or from its JSON twin.

    Errors: VSS_E_CORRUPT_XML_DOCUMENT when it is neither, VSS_E_INVALID_XML_DOCUMENT when it is another document.
    """
    if is_json(data):
        return _from_json(data)
    name = xml.root_name("document", data)
    if name == "WRITER_METADATA":
        return metadata_from_xml(data)
    if name == "BACKUP_COMPONENTS":
        return components_from_xml(data)
    raise VssError(
        Code.VSS_E_INVALID_XML_DOCUMENT,
        f"the document is invalid: its root element is {name[:60]} and should be WRITER_METADATA or BACKUP_COMPONENTS",
    )


def _from_json(data: bytes) -> Document:
    if len(data) > 2 * xml.MAX_DOCUMENT:
        raise xml.corrupt("document", f"it is larger than {2 * xml.MAX_DOCUMENT} bytes")
    try:
        twin: MetadataTwin | ComponentsTwin = msgspec.json.decode(data, type=MetadataTwin | ComponentsTwin)
    except msgspec.ValidationError as error:
        raise VssError(Code.VSS_E_INVALID_XML_DOCUMENT, f"the document is invalid as JSON: {error}") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise xml.corrupt("document", str(error)) from error
    return twin.content


def document_to_xml(document: Document) -> str:
    """A document as XML. Errors: E_INVALIDARG for what XML cannot hold."""
    if isinstance(document, WriterMetadata):
        return metadata_to_xml(document)
    return components_to_xml(document)


def document_to_json(document: Document) -> str:
    """A document's JSON twin; the same value always gives the same text."""
    twin = MetadataTwin(document) if isinstance(document, WriterMetadata) else ComponentsTwin(document)
    # ASCII only, since it may go to a terminal and holds what strangers wrote
    return json.dumps(msgspec.to_builtins(twin), indent=2) + "\n"


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of both twins, made from the types themselves."""
    schema = msgspec.json.schema(MetadataTwin | ComponentsTwin)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Documents of Shadowset", **schema}


def schema_text() -> str:
    """``json_schema`` as text."""
    return json.dumps(json_schema(), indent=2) + "\n"


def lint(data: bytes) -> list[str]:
    """One sentence for each fault of a document in either form; an empty list for a sound one."""
    try:
        document = read_document(data)
    except VssError as error:
        return [error.message]
    if isinstance(document, WriterMetadata):
        return validate_metadata(document)
    return validate_components(document)
