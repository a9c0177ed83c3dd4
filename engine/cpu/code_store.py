"""Machine code of kernels: what is loaded in this process, then files, then the compiler.

A kernel's key covers its specification, the target, LLVM and the sources that emit code, and no
weights: a net that was trained again compiles nothing.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final
from weakref import WeakValueDictionary

import llvmlite
import llvmlite.binding as llvm

from engine.cpu.code_files import CodeFiles, default_folder
from engine.cpu.kernel import Kernel
from engine.cpu.native import LoadedObject
from engine.cpu.parallel_compile import compile_many
from engine.cpu.runtime.cores import allowed_cores
from engine.cpu.target import Target

FORMAT: Final = 1  # raise it when object files are made or named in another way
ENGINE: Final = Path(__file__).resolve().parent.parent
# What decides what a specification compiles to, beside the specification.
SOURCES: Final = ("cpu", "ir", "dtypes.py")

Progress = Callable[[int, int], None]  # kernels compiled so far, kernels to compile


class Handle:
    """A kernel's code in this process; it stays as long as somebody holds the handle.

    Attributes:
        address: The kernel's function.
        code_bytes: Size of its object file.
    """

    __slots__ = ("__weakref__", "_owner", "address", "code_bytes")

    def __init__(self, address: int, code_bytes: int, owner: LoadedObject) -> None:
        self.address, self.code_bytes, self._owner = address, code_bytes, owner


class CodeStore:
    """Finds or makes the code of kernels. Thread-safe; all stores of a process share its code."""

    _loaded: ClassVar[WeakValueDictionary[str, Handle]] = WeakValueDictionary()
    _lock: ClassVar[Any] = threading.RLock()

    def __init__(self, folder: Path | None = None, *, keep: bool = True) -> None:
        """Keep object files in `folder`, by default `default_folder()`; nowhere without `keep`."""
        folder = folder or default_folder()
        self._files = CodeFiles(folder) if keep and folder is not None else None

    def get(
        self,
        kernels: Sequence[Kernel],
        target: Target,
        progress: Progress | None = None,
        *,
        aside: bool = False,
    ) -> dict[Kernel, Handle]:
        """Return the code of kernels, loaded.

        Args:
            kernels: Specifications; equal ones count once.
            target: The processor, which must be this machine's.
            progress: Is told how many of the missing kernels are compiled, after each.
            aside: Whether children compile all that they can, so that this process goes on with
                what it serves.
        """
        keys = {kernel: kernel_key(kernel, target) for kernel in kernels}
        found = self._known(keys)
        if len(found) < len(keys):
            with self._lock:  # LLVM works for one thread at a time anyway
                found = self._known(keys)
                missing = {kernel: key for kernel, key in keys.items() if kernel not in found}
                found.update(self._load(missing, target, progress, aside))
        return found

    def codes(
        self,
        kernels: Sequence[Kernel],
        target: Target,
        progress: Progress | None = None,
        *,
        processes: int | None = None,
    ) -> dict[Kernel, bytes]:
        """Return the object files of kernels, from files or compiled; nothing is loaded.

        `processes` is how many may compile at the same time, by default one per core.
        """
        keys = {kernel: kernel_key(kernel, target) for kernel in kernels}
        with self._lock:
            codes = self._read(keys)
            absent = {kernel: key for kernel, key in keys.items() if kernel not in codes}
            if absent:
                codes.update(self._compile(absent, target, progress, processes=processes))
            return codes

    def adopt(self, codes: Mapping[str, bytes], target: Target) -> dict[str, Handle]:
        """Load object files that somebody kept under their keys, but for those loaded already."""
        with self._lock:
            found = {key: handle for key in codes if (handle := self._loaded.get(key)) is not None}
            return {
                **found,
                **self._link({k: c for k, c in codes.items() if k not in found}, target),
            }

    def _known(self, keys: Mapping[Kernel, str]) -> dict[Kernel, Handle]:
        pairs = ((kernel, self._loaded.get(key)) for kernel, key in keys.items())
        return {kernel: handle for kernel, handle in pairs if handle is not None}

    def _load(
        self,
        missing: Mapping[Kernel, str],
        target: Target,
        progress: Progress | None,
        aside: bool,
    ) -> dict[Kernel, Handle]:
        codes = self._read(missing)
        absent = {kernel: key for kernel, key in missing.items() if kernel not in codes}
        if absent:
            codes.update(self._compile(absent, target, progress, aside))
        handles = self._link({missing[kernel]: code for kernel, code in codes.items()}, target)
        return {kernel: handles[missing[kernel]] for kernel in codes}

    def _link(self, codes: Mapping[str, bytes], target: Target) -> dict[str, Handle]:
        if not codes:
            return {}
        owner = LoadedObject(list(codes.values()), target)
        handles = {}
        for key, code in codes.items():
            handle = Handle(owner.address(symbol(key)), len(code), owner)
            handles[key] = self._loaded[key] = handle
        return handles

    def _read(self, keys: Mapping[Kernel, str]) -> dict[Kernel, bytes]:
        if self._files is None:
            return {}
        pairs = ((kernel, self._files.read(key)) for kernel, key in keys.items())
        return {kernel: code for kernel, code in pairs if code is not None}

    def _compile(
        self,
        keys: Mapping[Kernel, str],
        target: Target,
        progress: Progress | None,
        aside: bool = False,
        processes: int | None = None,
    ) -> dict[Kernel, bytes]:
        named = {symbol(key): kernel for kernel, key in keys.items()}
        codes: dict[Kernel, bytes] = {}

        def done(name: str, code: bytes) -> None:
            kernel = named[name]
            codes[kernel] = code
            if self._files is not None:
                self._files.write(keys[kernel], code)
            if progress is not None:
                progress(len(codes), len(keys))

        at_once = processes or allowed_cores()
        compile_many(named, target, done, processes=at_once, aside=aside)
        if self._files is not None:
            self._files.make_room()
        return codes


def _after_fork() -> None:
    CodeStore._lock = threading.RLock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def kernel_key(kernel: Kernel, target: Target) -> str:
    """Return a name for a kernel's code on a target: hexadecimal digits."""
    kind = type(kernel)
    parts = (
        f"{FORMAT}",
        f"{llvmlite.__version__} {llvm.llvm_version_info}",
        sources_digest(SOURCES),
        _module_digest(kind.__module__),
        f"{kind.__module__}.{kind.__qualname__}",
        repr(kernel),
        repr(target),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def symbol(key: str) -> str:
    """Return the name of the function in the object file of a key."""
    return f"kernel_{key[:32]}"


@cache
def sources_digest(names: tuple[str, ...]) -> str:
    """Return a digest of files and folders of the engine's sources."""
    return hashlib.sha256("".join(map(_source_digest, names)).encode()).hexdigest()


@cache
def _source_digest(name: str) -> str:
    """Return a digest of one file or folder."""
    path = str(ENGINE / name)
    if path.endswith(".py"):
        return _file_digest([path])
    inside = (os.path.join(where, f) for where, _, files in os.walk(path) for f in files)  # noqa: PTH118  # pathlib takes longer for this than hashing does
    return _file_digest(sorted(f for f in inside if f.endswith(".py")))


@cache
def _module_digest(name: str) -> str:
    """Return a digest of a module that is not the engine's own; '' where there is no source."""
    path: Any = getattr(sys.modules.get(name), "__file__", None)
    if name.partition(".")[0] == "engine" or not path:
        return ""
    return _file_digest([path])


def _file_digest(files: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for file in files:
        try:
            with open(file, "rb", buffering=0) as opened:  # noqa: PTH123  # as above
                content = opened.read()
        except OSError:  # an installation without sources; its version is all there is to go by
            continue
        digest.update(f"{file.removeprefix(str(ENGINE))} {len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
