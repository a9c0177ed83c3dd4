"""What code generation needs to know of a processor: its vector unit and its caches.

A target is data and a part of every kernel's key; `host_target` asks LLVM about this machine. Other
instruction sets can be named, so that their code is emitted and verified on any machine.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import llvmlite.binding as llvm

from engine.cpu.tile_permission import tiles_are_permitted

ISAS: Final = ("avx512", "avx2", "sse2", "neon")
VARIANTS: Final = (*ISAS, "amx")  # what `target_for` knows: "amx" is AVX-512 and tiles
_TRIPLES: Final = {"neon": "aarch64-unknown-linux-gnu"}
_X86_TRIPLE: Final = "x86_64-unknown-linux-gnu"
_AVX512: Final = ("avx512f", "avx512vl", "avx512bw", "avx512dq")
_DOTS: Final = ("avx512bf16", "avx512vnni")
_AMX: Final = ("amx-tile", "amx-bf16", "amx-int8")


@dataclass(frozen=True)
class Target:
    """A processor as kernels see it.

    Attributes:
        isa: One of `ISAS`.
        triple: LLVM's name of the platform.
        cpu: LLVM's name of the processor.
        features: LLVM's feature string.
        lanes: float32 values in one vector register.
        tile_rows: Rows of the register tile of a product.
        tile_vectors: Vectors in one row of the register tile.
        has_bf16_dot: Whether pairs of bfloat16 can be multiplied and summed in one instruction.
        has_int8_dot: Whether quadruples of u8 x s8 can be.
        has_amx: Whether tiles of bfloat16 and of bytes can, and may be (both of the above hold).
        l1_bytes: First-level data cache of one core.
        l2_bytes: Second-level cache of one core.
    """

    isa: str
    triple: str
    cpu: str
    features: str
    lanes: int
    tile_rows: int
    tile_vectors: int
    has_bf16_dot: bool = False
    has_int8_dot: bool = False
    has_amx: bool = False
    l1_bytes: int = 32 << 10
    l2_bytes: int = 1 << 20

    @property
    def tile_columns(self) -> int:
        """Columns of the register tile: the width of a panel of packed weights."""
        return self.lanes * self.tile_vectors

    @property
    def is_x86(self) -> bool:
        """Whether x86 instructions may be named."""
        return self.triple.startswith("x86_64")

    @property
    def has_fma(self) -> bool:
        """Whether a fused multiply-add is one instruction, not a call into the C library."""
        return self.isa != "sse2"

    def whole_vectors(self, channels: int) -> int:
        """Return `channels` rounded up to whole vectors."""
        return -(-channels // self.lanes) * self.lanes

    def machine(self) -> Any:
        """Return LLVM's machine for this target; `ValueError` when LLVM lacks the platform."""
        _initialize()
        try:
            found = llvm.Target.from_triple(self.triple)
        except RuntimeError as error:
            raise ValueError(f"LLVM cannot emit code for {self.triple}: {error}") from error
        return found.create_target_machine(
            cpu=self.cpu, features=self.features, opt=3, reloc="pic", codemodel="default", jit=True
        )


def target_for(isa: str) -> Target:
    """Return a target of one of `VARIANTS`, whether or not this machine has its instructions.

    On a machine that has it, the target is tuned for the machine's own processor.
    """
    host = host_target()
    if isa == "amx":
        plain = target_for("avx512")
        features = f"{plain.features},{_added(_DOTS + _AMX)}"
        return replace(plain, features=features, has_bf16_dot=True, has_int8_dot=True, has_amx=True)
    if isa == host.isa:
        return replace(host, has_amx=False)
    match isa:
        case "avx512":
            # 32 registers: 14 x 2 sums, 2 weights, and one or two broadcast inputs.
            features = _added(_AVX512 + _DOTS)
            return Target(isa, _X86_TRIPLE, "sapphirerapids", features, 16, 14, 2, True, True)
        case "avx2":
            # 16 registers: 6 x 2 sums, 2 weights, a broadcast input.
            return Target(isa, _X86_TRIPLE, "haswell", "+avx2,+fma", 8, 6, 2)
        case "sse2":
            return Target(isa, _X86_TRIPLE, "x86-64", "", 4, 4, 2)
        case "neon":
            # 32 registers: 6 x 4 sums, 4 weights, and an operand multiplied by lane.
            return Target(isa, _TRIPLES[isa], "cortex-a76", "+neon", 4, 6, 4)
    raise ValueError(f"no instruction set is called {isa!r}; expected one of {', '.join(VARIANTS)}")


def _added(features: tuple[str, ...]) -> str:
    """Return LLVM's words for a processor that has these."""
    return ",".join(f"+{feature}" for feature in features)


@cache
def host_target() -> Target:
    """Return the target of the machine that this process runs on."""
    _initialize()
    features = llvm.get_host_cpu_features()
    cpu, triple, flat = llvm.get_host_cpu_name(), llvm.get_default_triple(), features.flatten()
    has = features.get
    if triple.startswith(("aarch64", "arm64")):
        return Target("neon", triple, cpu, flat, 4, 6, 4)
    if all(map(has, _AVX512)):
        bf16, vnni = (bool(has(feature)) for feature in _DOTS)
        amx = all(map(has, _DOTS + _AMX)) and tiles_are_permitted()
        return Target("avx512", triple, cpu, flat, 16, 14, 2, bf16, vnni, amx)
    if has("avx2") and has("fma"):
        return Target("avx2", triple, cpu, flat, 8, 6, 2)
    return Target("sse2", triple, cpu, flat, 4, 4, 2)


@cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    if platform.machine().lower() in ("x86_64", "amd64"):
        llvm.initialize_native_asmparser()  # for instructions on tiles
