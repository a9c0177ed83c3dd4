"""`engine.load_seq2seq`: from a folder to an encoder-decoder."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from engine.compiler import EXACT, CompileRequest
from engine.device import CompileOptions
from engine.errors import GraphInvalid, InvalidModel, NotRecognised
from engine.generation.cached_slots import CachedParts
from engine.generation.files import Files, find_files
from engine.generation.seq2seq import LoadedSeq2Seq, Parts, PrefixParts
from engine.limits import Limits
from engine.loading import DEFAULT_LIMITS, PRECISIONS, Placement, in_precision, load_request
from engine.passes.cache_names import ENCODED
from engine.passes.roles import CROSS_STATES, ENCODER, PREFIX, STEP, WHOLE
from engine.session import Model


def load_seq2seq(
    folder: str | os.PathLike[str],
    *,
    device: str = "cpu",
    precision: str = "fp32",
    threads: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    isolate: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> LoadedSeq2Seq:
    """Load an encoder-decoder as Hugging Face Optimum exports it.

    Args:
        folder: Holds the .onnx files (see `engine.generation.files`), or an `onnx/` that does.
        device: As for `load`.
        precision: As for `load`; "auto" is fp32, for nothing says how far texts may move.
        threads: As for `load`.
        limits: Bounds on each of its files, and on the memory of a decoder's slots.
        isolate: Parse and compile in child processes.
        cache_dir: Folder that keeps compiled models.

    Where the decoder's caches are not recognised, it decodes whole prefixes again and again:
    slowly, with the same results; `notes` say why.

    Raises:
        InvalidModel: Files are missing, malformed or do not fit together.
        ResourceLimit: Loading needs more than `limits` allow.
        DeviceUnavailable: The device, or the precision on it, does not exist here.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}; expected one of {PRECISIONS}")
    chosen = EXACT if precision == "auto" else precision
    request, options = in_precision(
        chosen, CompileRequest(limits=limits), CompileOptions(limits=limits, threads=threads)
    )
    loader = _Loader(request, options, Placement(device, isolate, cache_dir))
    parts, notes = loader.parts(find_files(folder))
    return LoadedSeq2Seq(parts, notes, limits)


@dataclass(frozen=True)
class _Loader:
    """Loads parts with the same options."""

    request: CompileRequest
    options: CompileOptions
    place: Placement

    def parts(self, files: Files) -> tuple[Parts, list[str]]:
        """Return the parts of a folder, and why they are not better ones."""
        if files.whole is not None:
            note = f"every step decodes the whole prefix: {files.whole.name} has no cache"
            return PrefixParts(self.load(files.whole, WHOLE)), [note]
        assert files.encoder is not None and files.prefix is not None
        encoder = self.load(files.encoder, ENCODER)
        if files.step is None:
            return self.without_cache(files.prefix, encoder, "no decoder with past")
        try:
            cross = self.load(files.prefix, CROSS_STATES)
            step = self.load(files.step, STEP)
        except (NotRecognised, GraphInvalid) as error:
            return self.without_cache(files.prefix, encoder, f"no step graph: {error}")
        _check_layers(cross, step)
        _check_states(encoder, cross)
        return CachedParts(encoder, cross, step), []

    def without_cache(self, path: Path, encoder: Model, why: str) -> tuple[Parts, list[str]]:
        """Return what decodes whole prefixes, and the reason."""
        decoder = self.load(path, PREFIX)
        _check_states(encoder, decoder)
        note = f"every step decodes the whole prefix: {why}"
        return PrefixParts(decoder, encoder), [note]

    def load(self, path: Path, role: str) -> Model:
        """Load a file in a role; errors name it."""
        try:
            return load_request(path, replace(self.request, role=role), self.options, self.place)
        except (NotRecognised, GraphInvalid) as error:
            raise type(error)(f"{path.name}: {error}") from error


def _check_states(encoder: Model, decoder: Model) -> None:
    """Hold encoder and decoder to the same width."""
    given = (encoder.outputs[0].shape or (None,))[-1]
    taken = [(s.shape or (None,))[-1] for s in decoder.inputs if s.name == ENCODED]
    if not taken or (isinstance(given, int) and isinstance(taken[0], int) and given != taken[0]):
        raise InvalidModel(
            f"encoder and decoder do not fit together: one gives states of width {given}, the "
            f"other takes {taken[0] if taken else 'none'}"
        )


def _check_layers(cross: Model, step: Model) -> None:
    """Hold the two decoders of a folder to the same layers."""
    given = {spec.name: (spec.dtype, spec.shape and spec.shape[-1]) for spec in cross.outputs}
    taken = {
        spec.name: (spec.dtype, spec.shape and spec.shape[-1])
        for spec in step.inputs
        if spec.name.startswith("cross.")
    }
    wrong = sorted(name for name in {*given, *taken} if given.get(name) != taken.get(name))
    if wrong:
        name = wrong[0]
        raise InvalidModel(
            f"the decoders do not fit together: {name!r} is {given.get(name)} without past and "
            f"{taken.get(name)} with it"
        )
