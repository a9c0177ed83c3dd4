"""A child process that compiles a model for given sizes of pictures (`engine.cpu.size_child`).

It maps the model's compiled file, which is open already and may have lost its name, and writes a
file of the same kind: passes, lowering, packing and machine code are done here, with limits of its
own. Its standard input says only that the parent lives: when that ends, so does the child.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from pathlib import Path

from engine.container import ContainerWriter, map_descriptor
from engine.cpu.native_artifact import fingerprint, read_whole
from engine.cpu.native_writer import write_native
from engine.cpu.size_order import ANSWER, REPORT, SizeOrder
from engine.cpu.specializing import specialized
from engine.cpu.target import host_target
from engine.errors import DeviceUnavailable
from engine.isolate import enter_limits, error_to_json, failure_of
from engine.limits import Deadline
from engine.ops.registry import REGISTRY


def main(folder: Path) -> int:
    """Do what the order in a folder asks for; return the exit status."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    gc.disable()  # the process is over before that pays
    order = SizeOrder.read(folder)
    enter_limits(order.memory_bytes, order.limits.load_s)
    error = failure_of(lambda: answer(order, folder / ANSWER), order.what, order.memory_bytes)
    if error is None:
        return 0
    (folder / REPORT).write_bytes(error_to_json(error))
    return 1


def answer(order: SizeOrder, path: Path) -> None:
    """Compile what an order asks for into a new file."""
    target, deadline = host_target(), Deadline(order.limits.load_s)
    if fingerprint(target, order.precision) != order.fingerprint:
        raise DeviceUnavailable(
            "the engine was replaced since the process that serves began: restart that process"
        )
    blobs = map_descriptor(order.descriptor, "the model's").blobs
    graph = specialized(read_whole(blobs, order.whole), order.sizes, REGISTRY, order.limits)
    with ContainerWriter(path) as into:
        data = write_native(
            graph,
            into,
            target=target,
            registry=REGISTRY,
            limits=order.limits,
            precision=order.precision,
            deadline=deadline,
            known=frozenset(order.known),
        )
        into.finish(data)


def _end_with_parent() -> None:
    """Wait for the end of the input, which nobody writes to."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[-1])))
