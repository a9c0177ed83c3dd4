"""The store of machine code: in the process, in files, and made by several processes."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

import llvmlite.ir as ir
import numpy as np
import pytest

from engine.cpu import code_store, parallel_compile
from engine.cpu.code_files import SUFFIX, UNFINISHED, CodeFiles, default_folder
from engine.cpu.code_store import CodeStore, kernel_key
from engine.cpu.image_layout import ImageLayout
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.kernels.fill import Fill
from engine.cpu.kernels.image_converters import ToImage
from engine.cpu.parallel_compile import compile_many
from engine.cpu.runtime.walker import Walker
from engine.cpu.spec_json import NotPlain, read_spec, write_spec
from engine.cpu.target import Target, host_target, target_for
from engine.dtypes import DType

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Put(Kernel):
    """operands: y (int64). Writes a number that is part of the specification."""

    number: int

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        f = KernelBuilder(module, name, target)
        f.store(ir.IntType(64)(self.number), f.operand(0), DType.INT64)
        f.ret()


@dataclass(frozen=True)
class Broken(Kernel):
    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        raise ArithmeticError("this kernel cannot be written")


def put(address: int) -> int:
    y = np.zeros(1, np.int64)
    operands = np.array([y.ctypes.data], np.int64)
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 5)(address)
    function(operands.ctypes.data, None, 0, 1, None)
    return int(y[0])


@pytest.fixture
def no_compiler(monkeypatch):
    """From now on, compiling is an error; returns a way to say when."""

    def forbid() -> None:
        def refuse(*args: object, **kwargs: object) -> None:
            raise AssertionError("compiled although the code was there")

        monkeypatch.setattr(code_store, "compile_many", refuse)

    return forbid


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*" + SUFFIX))


# ---------------------------------------------------------------------- within a process


def test_equal_kernels_are_one_piece_of_code_while_somebody_holds_it():
    store, target = CodeStore(keep=False), host_target()
    first = store.get([Put(101), Put(102), Put(101)], target)
    assert set(first) == {Put(101), Put(102)}
    again = CodeStore(keep=False).get([Put(102)], target)
    assert again[Put(102)] is first[Put(102)]
    assert [put(first[Put(n)].address) for n in (101, 102)] == [101, 102]
    assert first[Put(101)].code_bytes > 0
    gone = weakref.ref(first[Put(101)])
    owner = weakref.ref(first[Put(101)]._owner)
    del first, again
    gc.collect()
    assert gone() is None and owner() is None, "code that nobody holds stays loaded"


def test_progress_counts_what_is_missing():
    told = []
    store = CodeStore(keep=False)
    held = store.get([Put(201)], host_target())
    more = store.get(
        [Put(201), Put(202), Put(203)], host_target(), lambda done, all_: told.append((done, all_))
    )
    assert told == [(1, 2), (2, 2)]
    assert held[Put(201)] is more[Put(201)]
    assert store.get([], host_target()) == {}


def test_a_kernel_that_cannot_be_written_says_so():
    with pytest.raises(ArithmeticError, match="cannot be written"):
        CodeStore(keep=False).get([Put(301), Broken()], host_target())


def test_many_threads_get_the_same_code():
    store, got = CodeStore(keep=False), []
    kernels = [Put(400 + n) for n in range(5)]
    threads = [
        threading.Thread(target=lambda: got.append(store.get(kernels, host_target())))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 6
    assert len({found[Put(402)].address for found in got}) == 1
    assert put(got[0][Put(404)].address) == 404


def test_keys_cover_specification_target_and_class():
    host = host_target()
    other = next(target_for(isa) for isa in ("sse2", "avx2") if target_for(isa) != host)

    @dataclass(frozen=True)
    class Put(Kernel):  # another class of the same name and the same fields
        number: int

        def emit(self, module: ir.Module, name: str, target: Target) -> None:
            raise NotImplementedError

    mine = globals()["Put"]
    keys = {
        kernel_key(mine(1), host),
        kernel_key(mine(2), host),
        kernel_key(mine(1), other),
        kernel_key(Put(1), host),
    }
    assert len(keys) == 4
    assert kernel_key(mine(1), host) == kernel_key(mine(1), host)


# ---------------------------------------------------------------------- files


def test_files_spare_the_compiler(tmp_path, no_compiler):
    CodeStore(tmp_path / "deep" / "kernels").get([Put(501), Put(502)], host_target())
    folder = tmp_path / "deep" / "kernels"
    assert len(files_of(folder)) == 2 and folder.stat().st_mode & 0o777 == 0o700
    assert not list(folder.glob(UNFINISHED + "*"))
    gc.collect()
    no_compiler()
    found = CodeStore(folder).get([Put(502), Put(501)], host_target())
    assert put(found[Put(501)].address) == 501
    assert put(found[Put(502)].address) == 502


@pytest.mark.parametrize("damage", ["short", "flipped", "empty", "renamed", "foreign"])
def test_damaged_files_are_made_anew(tmp_path, damage):
    target = host_target()
    CodeStore(tmp_path).get([Put(601)], target)
    CodeStore(tmp_path).get([Put(602)], target)
    gc.collect()
    path = tmp_path / (kernel_key(Put(601), target) + SUFFIX)
    other = tmp_path / (kernel_key(Put(602), target) + SUFFIX)
    content = bytearray(path.read_bytes())
    if damage == "short":
        path.write_bytes(content[:-1])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "renamed":
        path.write_bytes(other.read_bytes())
    else:
        path.write_bytes(b"\x7fELF" + content)
    assert CodeFiles(tmp_path).read(kernel_key(Put(601), target)) is None
    found = CodeStore(tmp_path).get([Put(601)], target)
    assert put(found[Put(601)].address) == 601
    assert CodeFiles(tmp_path).read(kernel_key(Put(601), target)) is not None


def test_what_others_may_write_is_not_run(tmp_path):
    target, key = host_target(), kernel_key(Put(701), host_target())
    CodeStore(tmp_path).get([Put(701)], target)
    path = tmp_path / (key + SUFFIX)
    assert CodeFiles(tmp_path).read(key) is not None
    path.chmod(0o620)
    assert CodeFiles(tmp_path).read(key) is None
    path.chmod(0o600)
    link = tmp_path / ("0" * 64 + SUFFIX)
    link.symlink_to(path)
    assert CodeFiles(tmp_path).read("0" * 64) is None
    tmp_path.chmod(0o777)
    files = CodeFiles(tmp_path)
    assert files.read(key) is None
    files.write("1" * 64, b"code")
    assert not (tmp_path / ("1" * 64 + SUFFIX)).exists()
    tmp_path.chmod(0o700)


def test_a_folder_that_cannot_be_used_is_no_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    found = CodeStore(blocked / "kernels").get([Put(751)], host_target())
    assert put(found[Put(751)].address) == 751


def test_the_longest_unused_files_go(tmp_path):
    files = CodeFiles(tmp_path, max_bytes=3000)
    for n in range(5):
        files.write(f"{n}", bytes(900))
        os.utime(tmp_path / f"{n}{SUFFIX}", (time.time() - 10_000 + n,) * 2)
    assert files.read("0") == bytes(900)  # used just now
    old = tmp_path / f"{UNFINISHED}1-2"
    old.write_bytes(b"half")
    os.utime(old, (1, 1))
    young = tmp_path / f"{UNFINISHED}1-3"
    young.write_bytes(b"half")
    files.make_room()
    assert [p.name for p in files_of(tmp_path)] == [f"{n}{SUFFIX}" for n in (0, 3, 4)]
    assert not old.exists() and young.exists()
    CodeFiles(tmp_path, max_bytes=1).make_room()
    assert [p.name for p in files_of(tmp_path)] == [f"0{SUFFIX}"], "never the newest"


def test_where_files_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("MILLRACE_CACHE_DIR", str(tmp_path / "a"))
    assert default_folder() == tmp_path / "a" / "kernels"
    monkeypatch.delenv("MILLRACE_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert default_folder() == tmp_path / "b" / "millrace" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert default_folder() == tmp_path / "c" / ".cache" / "millrace" / "kernels"


def test_processes_share_a_folder(tmp_path):
    body = """
import sys
from pathlib import Path
from engine.cpu.code_store import CodeStore
from engine.cpu.target import host_target
from tests.engine.cpu.test_code_store import Put, put
kernels = [Put(800 + n) for n in range(12)]
found = CodeStore(Path(sys.argv[1])).get(kernels, host_target())
assert [put(found[k].address) for k in kernels] == [k.number for k in kernels]
"""
    command = [sys.executable, "-c", body, str(tmp_path)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert len(files_of(tmp_path)) == 12


# ---------------------------------------------------------------------- several processes


def test_children_compile_the_same_code(monkeypatch):
    mine: list[str] = []
    real, take_in = parallel_compile.compile_kernel, parallel_compile._Work.add
    helped = threading.Event()

    def noted(kernel: Kernel, name: str, target: Target) -> bytes:
        mine.append(name)
        assert helped.wait(200), "the child did nothing"  # it may take long to start
        return real(kernel, name, target)

    def add(self: object, name: str, code: bytes) -> None:
        take_in(self, name, code)
        helped.set()

    monkeypatch.setattr(parallel_compile, "compile_kernel", noted)
    monkeypatch.setattr(parallel_compile._Work, "add", add)
    jobs = {f"f{n}": Fill(1 << n) for n in range(4)} | {f"w{n}": Walker() for n in range(8)}
    got: dict[str, bytes] = {}

    def done(name: str, code: bytes) -> None:
        assert name not in got, f"{name} was made twice"
        got[name] = code

    compile_many(jobs, host_target(), done, processes=2)
    assert got.keys() == jobs.keys()
    assert len(mine) < len(jobs), "the child did nothing"
    for name, code in got.items():
        assert code == real(jobs[name], name, host_target()), f"{name} differs"


def test_what_children_cannot_do_is_done_here(monkeypatch):
    # `Put` is no class of the engine, so it has no form in which it could be sent
    jobs = {f"k{n}": Put(900 + n) for n in range(12)}
    got: dict[str, bytes] = {}
    compile_many(jobs, host_target(), got.__setitem__, processes=2)
    assert got.keys() == jobs.keys()


def test_a_process_that_serves_leaves_all_to_a_child(monkeypatch):
    def refuse(kernel: Kernel, name: str, target: Target) -> bytes:
        raise AssertionError(f"{name} was compiled here")

    real = parallel_compile.compile_kernel
    monkeypatch.setattr(parallel_compile, "compile_kernel", refuse)
    jobs = {f"f{n}": Fill(1 << n) for n in range(3)}
    got: dict[str, bytes] = {}
    compile_many(jobs, host_target(), got.__setitem__, aside=True)
    assert got == {name: real(kernel, name, host_target()) for name, kernel in jobs.items()}


@pytest.mark.parametrize("command", [("/nonexistent/python",), ("/bin/false",)])
def test_a_child_that_fails_leaves_no_gap_aside(monkeypatch, command):
    monkeypatch.setattr(parallel_compile, "COMMAND", command)
    jobs = {"f": Fill(1), "p": Put(7)}
    got: dict[str, bytes] = {}
    compile_many(jobs, host_target(), got.__setitem__, aside=True)
    assert got.keys() == jobs.keys()


@pytest.mark.parametrize(
    "command",
    [("/nonexistent/python",), ("/bin/false",), ("/bin/echo", "nonsense, eight bytes and more")],
)
def test_children_that_fail_leave_no_gap(monkeypatch, command):
    monkeypatch.setattr(parallel_compile, "COMMAND", command)
    jobs = {f"k{n}": Fill(1 << n % 4) for n in range(12)}
    got: dict[str, bytes] = {}
    compile_many(jobs, host_target(), got.__setitem__, processes=2)
    assert got.keys() == jobs.keys()


def test_an_error_ends_the_children():
    jobs: dict[str, Kernel] = {f"k{n}": Fill(1) for n in range(12)}
    jobs["broken"] = Broken()
    with pytest.raises(ArithmeticError):
        compile_many(jobs, host_target(), lambda name, code: None, processes=2)


# ---------------------------------------------------------------------- specifications as text


def test_specifications_survive_as_text():
    layout = ImageLayout(7, 9, 3, 16, 32, 1, DType.BFLOAT16)
    for spec in (Fill(4), ToImage(layout), host_target(), target_for("neon"), layout, Walker()):
        again = read_spec(write_spec(spec))
        assert again == spec and repr(again) == repr(spec)


@pytest.mark.parametrize("value", [Put(1), object(), [1], {1: 2}, np.float32(1), (1, [2])])
def test_what_has_no_text_is_refused(value):
    with pytest.raises(NotPlain):
        write_spec(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"class": "os:system", "fields": {}}',
        '{"class": "engine.cpu.kernel:Nothing", "fields": {}}',
        '{"class": "engine.cpu.nothing:Kernel", "fields": {}}',
        '{"class": "engine.cpu.native:compile_text", "fields": {"text": "", "target": 1}}',
        '{"class": "engine.cpu.kernels.fill:Fill", "fields": {"wrong": 1}}',
        '{"enum": "engine.dtypes:DType", "value": "NONE"}',
        '{"fields": {}}',
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(NotPlain):
        read_spec(text)
