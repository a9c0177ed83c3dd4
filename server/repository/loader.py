"""Turn a version's files into a model that is compiled, warm, and gives its golden answers.

Blocking, and meant for a background thread. The only part of the repository that knows the engine;
every failure leaves here as `LoadFailed` with the reason.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import engine
from engine import Model, Seq2Seq
from server.errors import InvalidInput, LoadCrashed, LoadFailed
from server.model_config import ModelConfig
from server.repository import layout, warmup
from server.repository.config import ConfigInvalid, VersionConfig, version_config
from server.repository.golden import GoldenMismatch, Sample, check_samples, read_samples
from server.repository.manifest import (
    ManifestInvalid,
    VersionIncomplete,
    check_hashes,
    read_manifest,
)
from server.repository.scan import ModelSnapshot, VersionSnapshot, rescan_version
from server.repository.text_model import (
    TextModel,
    TextParts,
    check_vocabulary,
    read_text_parts,
    text_config,
)

__all__ = ["LoadOptions", "LoadedVersion", "Model", "TextModel", "load_version"]

logger = logging.getLogger(__name__)

Progress = Callable[[str], None]
Feeds = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class LoadOptions:
    """How this server loads models."""

    device: str = "cpu"
    threads: int | None = None
    isolate: bool = True
    cache_dir: Path | None = None
    load_timeout_s: float = 120.0
    model_bytes: int = 8 << 30


@dataclass
class LoadedVersion:
    """A model that is ready to serve."""

    loaded: Model | TextModel
    config: ModelConfig
    labels: tuple[str, ...] | None
    seconds: dict[str, float] = field(default_factory=dict)  # per stage

    @property
    def engine_model(self) -> Model:
        """The model, of a version that takes and gives tensors."""
        assert isinstance(self.loaded, Model)
        return self.loaded

    def close(self) -> None:
        """Free the model."""
        self.loaded.close()


def load_version(
    model: ModelSnapshot, version: VersionSnapshot, options: LoadOptions, progress: Progress
) -> LoadedVersion:
    """Load, warm and check one version.

    Args:
        model: the model as it was last seen on disk.
        version: the version's own files.
        options: how to load.
        progress: told the name of every stage as it begins.

    Raises:
        LoadFailed: the version cannot be served; the message names it and says why.
    """
    try:
        loaded = _load(model, version, options, progress)
        _check_unchanged(model, version, loaded)
    except (ManifestInvalid, VersionIncomplete) as error:
        raise load_failed(model.name, version.version, f"incomplete: {error}") from error
    except (ConfigInvalid, GoldenMismatch, engine.EngineError) as error:
        raise load_failed(model.name, version.version, str(error)) from error
    except Exception as error:  # a fault of ours must not take the server's loader down
        logger.exception("loading %s version %s broke", model.name, version.version)
        reason = f"{type(error).__name__}: {error}"
        raise LoadCrashed(_message(model.name, version.version, reason), reason=reason) from error
    return loaded


def load_failed(model: str, version: str, reason: str) -> LoadFailed:
    """Return the error that says why a version cannot be served."""
    return LoadFailed(_message(model, version, reason), model=model, version=version, reason=reason)


def _message(model: str, version: str, reason: str) -> str:
    return f"model {model!r} version {version!r} cannot be loaded: {reason}"


def _load(
    model: ModelSnapshot, version: VersionSnapshot, options: LoadOptions, progress: Progress
) -> LoadedVersion:
    stages = _Stages(progress)
    with stages("verify"):
        manifest = read_manifest(version.folder)
        if manifest is not None:
            check_hashes(version.folder, manifest)
    with stages("configuration"):
        if version.model_file is None:
            raise ConfigInvalid(
                f"{version.folder.name}/ has several .onnx files or none; expected model.onnx, "
                f"a single .onnx file, or {layout.ENCODER_FILE} with decoder_model*.onnx"
            )
        path = version.folder / version.model_file
        how = version_config(dict(model.body), model.folder, version.folder)
        if _is_text_model(how.config, path):
            folders = tuple(dict.fromkeys((version.folder, path.parent, model.folder)))
            config = text_config(how.config, folders)
            parts = read_text_parts(config, folders)
        else:
            parts = None
            samples = read_samples(version.folder)
    if parts is not None:
        with stages("compile"):
            text_model = _compile_text(path.parent, config, parts, options)
        return LoadedVersion(text_model, config, how.labels, stages.seconds)
    with stages("compile"):
        engine_model = _compile(path, how, samples, options)
    try:
        with stages("warm up"):
            _warm(engine_model, how.config, samples)
        with stages("golden check"):
            check_samples(samples, engine_model.run, how.config.golden)
    except BaseException:
        engine_model.close()
        raise
    return LoadedVersion(engine_model, how.config, how.labels, stages.seconds)


def _compile(
    path: Path, how: VersionConfig, samples: Sequence[Sample], options: LoadOptions
) -> Model:
    return engine.load(
        path,
        device=how.config.device or options.device,
        precision=how.config.precision,
        threads=options.threads,
        keep=tuple(_asked_values(how.config, samples)),
        limits=engine.Limits(model_bytes=options.model_bytes, load_s=options.load_timeout_s),
        isolate=options.isolate,
        cache_dir=options.cache_dir,
        samples=[sample.inputs for sample in samples],
        bound=engine.Bound(how.config.golden.rtol, how.config.golden.atol),
    )


def _is_text_model(config: ModelConfig, path: Path) -> bool:
    """Say whether a version translates: its configuration says so, or else its graphs do."""
    if config.task is not None:
        return config.task == "translation"
    return path.name == layout.ENCODER_FILE and layout.holds_decoder(
        {each.name for each in path.parent.iterdir()}
    )


def _compile_text(
    folder: Path, config: ModelConfig, parts: TextParts, options: LoadOptions
) -> TextModel:
    seq2seq = engine.load_seq2seq(
        folder,
        device=config.device or options.device,
        precision=config.precision,
        threads=options.threads,
        limits=engine.Limits(model_bytes=options.model_bytes, load_s=options.load_timeout_s),
        isolate=options.isolate,
        cache_dir=options.cache_dir,
    )
    try:
        check_vocabulary(parts, seq2seq.vocabulary_size)
    except ConfigInvalid:
        seq2seq.close()
        raise
    return TextModel(
        seq2seq,
        parts.tokenizer,
        parts.defaults,
        config.translation.prefix,
        (*seq2seq.notes, *parts.notes),
    )


def _asked_values(config: ModelConfig, samples: Sequence[Sample]) -> Iterable[str]:
    """Return the names that requests or samples will ask for."""
    embedding = config.embedding.output if config.embedding else None
    asked = [embedding, config.classification.output]
    golden = [name for sample in samples for name in sample.outputs]
    return dict.fromkeys(name for name in [*asked, *golden] if name is not None)


def _warm(model: Model, config: ModelConfig, samples: Sequence[Sample]) -> None:
    """Run once alone, and once with the largest batch, as real requests will."""
    sizes = [1]
    if model.batch is not None and config.batching.enabled:
        sizes.append(config.batching.max_batch_size)
    for rows in dict.fromkeys(sizes):
        feeds = _warm_feeds(model, samples, rows)
        if feeds is None:
            return
        try:
            model.run(feeds)
        except (engine.ResourceLimit, MemoryError) as error:
            if rows == 1:
                raise
            logger.info("%s is not warmed up with %d rows: %s", model.name, rows, error)


def _warm_feeds(model: Model, samples: Sequence[Sample], rows: int) -> Feeds | None:
    batched = model.batch.inputs if model.batch is not None else frozenset[str]()
    if samples:
        return warmup.with_rows(samples[0].inputs, batched, rows)
    return warmup.zeros(model.inputs, batched, rows)


def _check_unchanged(model: ModelSnapshot, version: VersionSnapshot, loaded: LoadedVersion) -> None:
    # Files without a manifest may be written to while they are read: what came out is then
    # neither the old content nor the new one.
    fresh = rescan_version(version, model)
    if fresh is None or fresh.key != version.key:
        loaded.close()
        raise ConfigInvalid("its files changed while they were being loaded")


class _Stages:
    """Names the stages of a load and times them."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress
        self._name = ""
        self._start = 0.0

    def __call__(self, name: str) -> _Stages:
        self._name, self._start = name, time.perf_counter()
        self._progress(name)
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self.seconds[self._name] = time.perf_counter() - self._start


def external_data_files(path: Path) -> tuple[str, ...]:
    """Return the files beside a model file that its weights lie in.

    Raises:
        InvalidInput: it is no ONNX file, or names files that it must not name.
    """
    try:
        return engine.external_data_files(path)
    except (engine.InvalidModel, engine.ResourceLimit) as error:
        raise InvalidInput(f"{path.name} cannot be published: {error}", field="path") from error


def metadata_of(loaded: Model | TextModel, config: ModelConfig) -> dict[str, Any]:
    """Return what the status of a version says about the loaded model."""
    if isinstance(loaded, TextModel):
        sources, targets = loaded.languages()
        return {
            "precision": "fp32" if config.precision == "auto" else config.precision,
            "notes": list(loaded.notes),
            "cached": loaded.seq2seq.cached,
            "vocabulary_size": loaded.seq2seq.vocabulary_size,
            "languages": {"source": list(sources), "target": list(targets)},
            "generation": asdict(loaded.defaults),
        }
    return {
        "batchable": loaded.batch is not None,
        "batch_reason": loaded.batch_reason,
        "precision": loaded.precision,
        "precision_choice": None if loaded.choice is None else asdict(loaded.choice),
        "model": dict(loaded.metadata),
    }


def memory_of(loaded: Model | TextModel) -> dict[str, int]:
    """Return the bytes that a loaded model holds now, by kind; arenas are made by runs."""
    model: Model | Seq2Seq = loaded.seq2seq if isinstance(loaded, TextModel) else loaded
    report = model.memory()
    return {
        "weights_bytes": report.weights_bytes,
        "arena_bytes": report.arena_bytes,
        "code_bytes": report.code_bytes,
        "scratch_bytes": report.scratch_bytes,
    }
