"""Collections in a folder of this machine: SQLite for the items, mapped files for the vectors.

    <root>/.lock             held by the one process that has the folder open
    <root>/<collection>/
        items.sqlite         ids, metadata, pictures, thumbnails, and which vectors count
        <space>-<generation>.f32   vectors, one row per slot
        <space>-<generation>.ann   derived; made again when it is missing or stale

What is in SQLite counts, and nothing else. A vector is forced to the disk before the transaction
that names its slot, or copied into that; slots are never used twice within one generation of files,
so neither a crash nor a reader can ever see another item's vector. Compaction writes the rows that
are left into files of the next generation, beside the writers, and switches in one transaction.
Folders are made and removed under names with a leading dot and one rename.
"""

from server.index.embedded.store import EmbeddedStore, open_store

__all__ = ["EmbeddedStore", "open_store"]
