"""The two documents of VSS as XML: what writers describe, and what a backup chose and how it went."""

from shadowset.vss.documents.components_xml import components_from_xml, components_to_xml
from shadowset.vss.documents.metadata_xml import metadata_from_xml, metadata_to_xml

__all__ = ["components_from_xml", "components_to_xml", "metadata_from_xml", "metadata_to_xml"]
