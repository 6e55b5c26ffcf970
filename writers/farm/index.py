"""The full-text index of a farm: documents by key and version, in a directory of flat files kept by tantivy."""

from __future__ import annotations

import os
from typing import Any

import tantivy

HEAP_BYTES = 15_000_000


def _schema() -> Any:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("key", stored=True, tokenizer_name="raw")
    builder.add_integer_field("version", stored=True)
    builder.add_text_field("body")
    return builder.build()


class SearchIndex:
    """One index. Errors of all calls: whatever tantivy raises, ValueError mostly; OSError."""

    def __init__(self, directory: str) -> None:
        os.makedirs(directory, exist_ok=True)
        self._index = tantivy.Index(_schema(), path=directory)
        self._writer: Any = None

    def _open_writer(self) -> Any:
        if self._writer is None:
            self._writer = self._index.writer(HEAP_BYTES, 1)
        return self._writer

    def put(self, key: str, version: int, body: str) -> None:
        """Indexes a document, in place of any older version; visible after ``commit``."""
        writer = self._open_writer()
        writer.delete_documents_by_term("key", key)
        writer.add_document(tantivy.Document(key=key, version=version, body=body))

    def delete(self, key: str) -> None:
        """Forgets a document; visible after ``commit``."""
        self._open_writer().delete_documents_by_term("key", key)

    def commit(self) -> None:
        """Makes what was put and deleted durable and visible."""
        self._open_writer().commit()
        self._index.reload()

    def quiesce(self) -> None:
        """Commits, and waits until nothing in the background writes to the directory any more."""
        if self._writer is not None:
            self._writer.commit()
            self._writer.wait_merging_threads()  # ends the writer, its lock and its threads
            self._writer = None
        self._index.reload()

    def search(self, text: str, limit: int = 10) -> list[str]:
        """The keys of the best matches."""
        searcher = self._index.searcher()
        query = self._index.parse_query(text, ["body"])
        return [searcher.doc(address)["key"][0] for _score, address in searcher.search(query, limit).hits]

    def entries(self) -> list[tuple[str, int]]:
        """Key and version of everything in the index; a key that stands there twice appears twice."""
        searcher = self._index.searcher()
        if not searcher.num_docs:
            return []
        hits = searcher.search(tantivy.Query.all_query(), searcher.num_docs).hits
        documents = (searcher.doc(address) for _score, address in hits)
        return sorted((document["key"][0], document["version"][0]) for document in documents)
