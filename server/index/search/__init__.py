"""Vector search: exact and approximate, chosen by measurement. Knows vectors and slots only.

What an item, a collection or a file of vectors is, the stores above say.
"""

from server.index.search.metrics import check_rows
from server.index.search.selection import Selection
from server.index.search.slot_index import SlotIndex

__all__ = ["Selection", "SlotIndex", "check_rows"]
