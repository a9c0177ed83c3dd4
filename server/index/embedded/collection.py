"""A collection in a folder: what changes it, one thread at a time, and what reads it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

from server.errors import InvalidInput, ServerError
from server.index.archive import Contents
from server.index.checks import (
    check_dim,
    check_items,
    check_space_key,
    check_vectors,
    is_clean,
    metadata_json,
)
from server.index.contract import (
    CollectionSpec,
    Metadata,
    Missing,
    NewItem,
    PutOutcome,
    Size,
    StoredItem,
    Vectors,
)
from server.index.embedded import loading, statements
from server.index.embedded.compaction import Compaction, Stopped, look
from server.index.embedded.compactor import Compactor
from server.index.embedded.freezing import FrozenRows, frozen_items
from server.index.embedded.held import HeldSpace
from server.index.embedded.space import EmbeddedSpace
from server.index.embedded.waiting import Waiting
from server.index.filters import Filter

COMPACT_FROM = 4096  # slots of removed items, and more of them than of items
MOST_ROUNDS = 8  # of a compaction that follows its writers, before it makes them wait
FEW_CHANGES = 64  # rows for which nobody waits long


class EmbeddedCollection:
    """Items in SQLite, vectors in files beside it."""

    def __init__(self, folder: Path, *, compact_from: int = COMPACT_FROM) -> None:
        """Open a collection's folder.

        Raises:
            ServerError: a file cannot be opened, or is damaged.
        """
        self._folder = folder
        self._lock = threading.RLock()  # of whatever changes the collection
        self._inside: dict[str, threading.Lock] = {}
        self._database = loading.database_of(folder)
        try:
            self._spec = loading.read_spec(self._database, folder)
            self._table, self._selections = loading.read_table(self._database)
            held = loading.read_spaces(
                folder, self._database, self._spec.metric, self._table, self._selections
            )
        except BaseException:
            self._database.close()
            raise
        self._spaces = {each.row.key: EmbeddedSpace(self, each) for each in held}
        self._waiting = Waiting()
        self._compactor = Compactor(folder.name, compact_from, self._compact)

    @property
    def spec(self) -> CollectionSpec:
        """Return what it was made with."""
        return self._spec

    # -- changing -------------------------------------------------------------------------------

    def put(
        self, items: Sequence[NewItem], vectors: Mapping[str, Vectors] | None = None
    ) -> PutOutcome:
        """Add or replace items, all of them or none; see `Collection.put`."""
        texts = check_items(items)
        order = list({item.id: i for i, item in enumerate(items)}.values())
        chosen = [items[i] for i in order]
        with self._lock:
            given = {
                key: self._checked(key, rows, len(items)) for key, rows in (vectors or {}).items()
            }
            if not order:
                return PutOutcome(0, 0)
            rows = {
                self.space(key, matrix.shape[1]): matrix[order] for key, matrix in given.items()
            }
            replaced = self._put(chosen, [texts[i] for i in order], rows)
            self._compact_if_worth_it()
        return PutOutcome(len(order) - replaced, replaced)

    def _checked(self, key: str, rows: Vectors, count: int) -> Vectors:
        """Check rows for a space, which has their length if it is new."""
        space, shape = self._spaces.get(check_space_key(key)), np.shape(rows)
        if space is None and len(shape) == 2:
            dim = check_dim(int(shape[1]))
        else:
            dim = 0 if space is None else space.dim
        return check_vectors(rows, count, dim, self._spec.metric)

    def _put(
        self, items: list[NewItem], texts: list[bytes], rows: Mapping[EmbeddedSpace, Vectors]
    ) -> int:
        table, waiting, ids = self._table, self._waiting, [item.id for item in items]
        slots = table.next_slots(len(items))
        numbers = table.numbers.of(slots)
        held = {space.held(): matrix for space, matrix in rows.items()}
        self._database.settle_doubts()
        with self._database.explained():
            copied = waiting.write(held, slots, numbers, self._all_held())
        old = [id for id in ids if id in table.slots]
        old_slots = np.array([table.slots[id] for id in old], np.int64)
        with table.turn.of(replacing=bool(old)):
            with self._database.write() as writer:
                gone = table.numbers.of(old_slots).tolist()
                statements.put_items(writer, items, texts, int(numbers[0]), gone, time.time())
                waiting.claim(writer, held, numbers, copied)
            waiting.claimed(held, copied)
            with table.turn.of_memory(replacing=bool(old)):
                for each in held:
                    each.mark(slots)  # first: no item may seem to have none
                table.remove(old)
                table.add(ids)
                for each in held:
                    each.find(slots)
                self._forget(old_slots.tolist())
        return len(old)

    def _forget(self, slots: list[int]) -> None:
        for space in self._spaces.values():
            space.held().forget(slots)

    def update_metadata(self, id: str, metadata: Metadata) -> bool:
        """Replace an item's metadata; its vectors stay. False if it is not there."""
        text = metadata_json(metadata)
        with self._lock:
            slot = self._table.slots.get(id)
            if slot is None:
                return False
            with self._database.write() as writer:
                statements.update_metadata(writer, id, text, time.time())
            self._table.touched.add(slot)
        return True

    def delete(self, ids: Sequence[str]) -> int:
        """Remove items and their vectors; returns how many there were."""
        with self._lock:
            table = self._table
            known = [id for id in dict.fromkeys(ids) if id in table.slots]
            if not known:
                return 0
            slots = np.array([table.slots[id] for id in known], np.int64)
            with self._database.write() as writer:
                statements.delete_items(writer, known, table.numbers.of(slots).tolist())
            table.remove(known)
            self._forget(slots.tolist())
            self._compact_if_worth_it()
        return len(known)

    def _compact_if_worth_it(self) -> None:
        self._compactor.consider(self._table.dead, len(self._table.slots))

    def _compact(self, go_on: Callable[[], bool]) -> None:
        """Move what is left into new files, beside everything else; `go_on` may stop it."""
        moved = Compaction(self._folder, self._database, self._spec.metric, self._table, go_on)
        try:
            for _ in range(MOST_ROUNDS):
                with self._lock:
                    seen = look(self._table, self._all_held())
                if moved.follow(seen) <= FEW_CHANGES:
                    break
                moved.settle()
            with self._lock:
                if not go_on():
                    raise Stopped
                old = self._all_held()
                moved.follow(look(self._table, old))
                placed = [(self._spaces[each.row.key], each) for each in moved.spaces.values()]
                moved.switch(self._selections)
                self._waiting.forget()
                self._table, self._selections = moved.table, moved.selections
                for space, each in placed:
                    space.hold(each)
        except BaseException:
            self._discard(moved)
            raise
        for held in old:
            held.close(remove=True)
        self._shrink(go_on)

    def _discard(self, moved: Compaction) -> None:
        try:
            with self._lock:
                self._database.settle_doubts()
        except ServerError:  # the switch may yet be found in the log, and would need its files
            moved.close(remove=False)
        else:
            moved.close(remove=True)

    def _shrink(self, go_on: Callable[[], bool]) -> None:
        more = True
        while more and go_on():
            with self._lock:
                more = self._database.shrink()

    def settle(self, timeout_s: float) -> bool:
        """Wait for a compaction that is under way; False if it takes longer."""
        return self._compactor.settle(timeout_s)

    # -- reading --------------------------------------------------------------------------------

    def get(self, ids: Sequence[str]) -> list[StoredItem | None]:
        """Return items by id, in the order asked for."""
        with self._database.read() as reader:
            found = statements.items_by_id(reader, self._known(ids))
        return [found.get(id) for id in ids]

    def page(
        self, after: str | None = None, limit: int = 100, filter: Filter | None = None
    ) -> list[StoredItem]:
        """Return items in the order of their ids, beginning after `after`."""
        if after is not None and not is_clean(after):
            raise InvalidInput("after: expected an id of the page before", field="after")
        with self._database.read() as reader:
            return statements.items_after(reader, after or "", max(limit, 0), filter)

    def pictures(self, ids: Sequence[str], most_bytes: int | None = None) -> list[bytes | None]:
        """Return the stored pictures; longer ones than `most_bytes` are left out, unread."""
        return self._bytes("pictures", ids, most_bytes)

    def thumbnails(self, ids: Sequence[str]) -> list[bytes | None]:
        """Return the stored thumbnails."""
        return self._bytes("thumbnails", ids)

    def _bytes(
        self, table: str, ids: Sequence[str], most_bytes: int | None = None
    ) -> list[bytes | None]:
        with self._database.read() as reader:
            found = statements.bytes_of(reader, table, self._known(ids), most_bytes)
        return [found.get(id) for id in ids]

    def _known(self, ids: Sequence[str]) -> list[str]:
        slots = self._table.slots
        return [id for id in ids if id in slots]

    def size(self) -> Size:
        """Count."""
        with self._database.read() as reader:
            (pictures,) = reader.execute("SELECT count(*) FROM items WHERE has_picture").fetchone()
        with self._database.explained():
            taken = sum(loading.bytes_on_disk(path) for path in self._folder.iterdir())
        return Size(len(self._table.slots), pictures, taken)

    # -- spaces ---------------------------------------------------------------------------------

    def space(self, key: str, dim: int) -> EmbeddedSpace:
        """Return the space of that key, an empty one if it is new."""
        space = self._spaces.get(key)
        if space is None:  # else whoever searches does not wait for whoever writes
            with self._lock:
                space = self._spaces.get(key)
                if space is None:
                    space = self._add_space(check_space_key(key), check_dim(dim))
        if space.dim != dim:
            raise InvalidInput(
                f"the space {key!r} of collection {self._spec.name!r} has vectors of length "
                f"{space.dim}, not {dim}",
                field="vector",
                expected=space.dim,
                got=dim,
            )
        return space

    def _add_space(self, key: str, dim: int) -> EmbeddedSpace:
        with ExitStack() as undo:
            with self._database.write() as writer:
                row = statements.add_space(writer, key, dim)
                # Inside, so that a space whose files cannot be made does not come to be.
                held = HeldSpace(
                    self._folder, row, self._spec.metric, self._table, self._selections
                )
                undo.callback(held.close, remove=True)
                held.attach(np.empty(0, np.int64))
                loading.sync_folder(self._folder)
            undo.pop_all()
        space = self._spaces[key] = EmbeddedSpace(self, held)
        return space

    def spaces(self) -> list[str]:
        """Return the keys of all spaces, oldest first."""
        return list(self._spaces)

    def drop_space(self, key: str) -> None:
        """Forget a space and its vectors; one that is not there is no error."""
        with self._lock:
            space = self._spaces.get(key)
            if space is None:
                return
            held = space.held()
            with self._database.write() as writer:
                statements.drop_space(writer, held.row.number)
            del self._spaces[key]
            space.hold(None)
        held.close(remove=True)

    def missing(self, held_now: Callable[[], HeldSpace], limit: int) -> list[Missing]:
        """Return the oldest items that have no vector in a space."""
        with self._lock, self._database.read() as reader:
            slots = held_now().empty_slots(max(limit, 0))
            return statements.missing_of(reader, self._table.numbers.of(slots).tolist())

    def fill(
        self, held_now: Callable[[], HeldSpace], made_of: Sequence[Missing], vectors: Vectors
    ) -> int:
        """Store the vectors of items that have none yet and did not change."""
        with self._lock:
            held = held_now()
            rows = check_vectors(vectors, len(made_of), held.row.dim, self._spec.metric)
            with self._database.read() as reader:
                known = self._known([made.id for made in made_of])
                now = statements.numbers_and_revisions(reader, known)
            fresh = {
                self._table.slots[made.id]: i
                for i, made in enumerate(made_of)
                if made.id in now and now[made.id][1] == made.revision
            }
            empty = held.empty_slots()
            slots = empty[np.isin(empty, list(fresh))]
            if not len(slots):
                return 0
            numbers = self._table.numbers.of(slots)
            made = {held: rows[[fresh[slot] for slot in slots.tolist()]]}
            self._database.settle_doubts()
            with self._database.explained():
                copied = self._waiting.write(made, slots, numbers, self._all_held())
            with self._database.write() as writer:
                self._waiting.claim(writer, made, numbers, copied)
            self._waiting.claimed(made, copied)
            held.count(slots)
            return len(slots)

    def _all_held(self) -> list[HeldSpace]:
        return [space.held() for space in self._spaces.values()]

    # -- as a whole -----------------------------------------------------------------------------

    @contextmanager
    def frozen(self) -> Iterator[Contents]:
        """Give all it holds as it is at this moment, while changes go on."""
        with ExitStack() as stack:
            with self._lock:
                reader = stack.enter_context(self._database.read_apart())
                # The first statement decides which state of the database is seen.
                facts = dict(reader.execute("SELECT name, value FROM facts").fetchall())
                rows = [
                    FrozenRows(key, held.file.matrix, held.filled.copy())
                    for key, space in self._spaces.items()
                    for held in (space.held(),)
                ]
                numbers = self._table.numbers
                dims = {key: space.dim for key, space in self._spaces.items()}
            # Its items end with an error once this is left: half of them must not seem to be all.
            yield Contents(self._spec, facts, dims, frozen_items(reader, numbers, rows))

    # -- facts, and being alone -----------------------------------------------------------------

    def fact(self, name: str) -> str | None:
        """Read a small text kept with the collection."""
        with self._database.read() as reader:
            return statements.fact(reader, name)

    def set_fact(self, name: str, value: str | None) -> None:
        """Keep a small text with the collection; None removes it."""
        with self._lock, self._database.write() as writer:
            statements.set_fact(writer, name, value)

    @contextmanager
    def busy(self, name: str, wait_s: float) -> Iterator[bool]:
        """Enter as the only one; False when another is inside for `wait_s`.

        One process at a time has the folder open, so a lock of this process is enough.
        """
        with self._lock:
            inside = self._inside.setdefault(name, threading.Lock())
        entered = inside.acquire(timeout=max(wait_s, 0.0))
        try:
            yield entered
        finally:
            if entered:
                inside.release()

    def close(self) -> None:
        """Save what is derived and let go of the files; what is called later fails clearly."""
        self._compactor.close()
        with self._lock:
            held = self._all_held()
            for space in self._spaces.values():
                space.hold(None)
            self._spaces = {}
            self._force(held)
            self._database.close()
        for each in held:
            each.close()

    def _force(self, held: Sequence[HeldSpace]) -> None:
        with suppress(ServerError):  # what is not forced to the disk now is written again
            with self._database.explained():
                for each in held:
                    each.file.sync()
            with self._database.write() as writer:
                statements.forget_waiting(writer)

    def retire(self) -> None:
        """Let nobody begin to read or write, as the folder is about to get another name."""
        self._compactor.stop()
        with self._lock:
            self._database.retire()
