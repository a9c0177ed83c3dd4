"""What a model's `model.toml` may say.

Pure data: every section is validated here and used by the layers above; nothing here reads a
file or knows a model. Unknown keys are errors, so that a typing mistake is never silently ignored.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

TaskName = Literal["classification", "embedding", "tensors", "translation"]
Resample = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Size = tuple[Annotated[int, Field(ge=1, le=8192)], Annotated[int, Field(ge=1, le=8192)]]


class Section(BaseModel):
    """A table of `model.toml`: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PreprocessConfig(Section):
    """How a decoded picture becomes a tensor: resize, crop, `(x * scale - mean) / std`, layout."""

    resize: Size | None = None  # exact (height, width)
    resize_short: Annotated[int, Field(ge=1, le=8192)] | None = None  # keeps the aspect ratio
    crop: Size | None = None  # centre crop (height, width)
    resample: Resample = "bilinear"
    antialias: bool = True
    mode: Literal["RGB", "BGR", "L"] = "RGB"
    scale: float = 1.0 / 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    invert: Literal["never", "always", "auto"] = "never"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.resize and self.resize_short:
            raise ValueError("give either resize (exact) or resize_short (keeps the ratio)")
        channels = 1 if self.mode == "L" else 3
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(
                    f"{name}: expected 1 or {channels} numbers for mode {self.mode}, "
                    f"got {len(values)}"
                )
        if 0.0 in self.std:
            raise ValueError("std: expected numbers other than 0")
        return self


class ClassificationConfig(Section):
    """Which output holds the scores, and how they become probabilities."""

    output: str | None = None  # default: the graph's first output
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    multi_label: bool = False
    threshold: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5  # multi-label only
    top_k: Annotated[int, Field(ge=1, le=100_000)] = 5

    @model_validator(mode="before")
    @classmethod
    def _independent_labels(cls, data: Any) -> Any:
        # Labels that may hold together are not a distribution: unless said otherwise, sigmoid.
        if isinstance(data, dict) and data.get("multi_label") is True:
            return {"activation": "sigmoid", **data}
        return data


class EmbeddingConfig(Section):
    """Which value of the graph is the embedding, and whether it is scaled to length 1."""

    output: str | None = None  # any named value; default: the graph's first output
    normalize: bool = True


class BatchingConfig(Section):
    """The batcher's limits (Triton's names)."""

    enabled: bool = True
    max_batch_size: Annotated[int, Field(ge=1, le=65_536)] = 32  # rows in one run
    max_queue_delay_us: Annotated[int, Field(ge=0, le=10_000_000)] = 0  # wait of an idle engine
    max_queue_size: Annotated[int, Field(ge=1, le=1_000_000)] = 1024  # rows waiting
    lanes: Annotated[int, Field(ge=1, le=64)] = 1  # runs of this model at the same time
    timeout_ms: Annotated[int, Field(ge=1, le=86_400_000)] | None = None  # default deadline


class TranslationConfig(Section):
    """Languages, limits of one request, and the static memory of a translation model."""

    source: str | None = None  # language code; default: what the files say
    target: str | None = None
    prefix: str | None = None  # put in front of every sentence, as T5 wants it
    max_characters: Annotated[int, Field(ge=1, le=100_000_000)] = 100_000  # of one text
    max_sentences: Annotated[int, Field(ge=1, le=1_000_000)] = 4096  # of one text
    rows: Annotated[int, Field(ge=1, le=4096)] = 64  # sequences under construction at a time
    sources: Annotated[int, Field(ge=1, le=4096)] = 64  # sentences under way at a time
    lanes: Annotated[int, Field(ge=1, le=64)] | None = None  # that share rows; 2 of many rows
    source_tokens: Annotated[int, Field(ge=4, le=65_536)] = 256  # longer sentences are split
    target_tokens: Annotated[int, Field(ge=4, le=65_536)] = 256
    max_queue_sentences: Annotated[int, Field(ge=1, le=1_000_000)] = 8192  # more: 429
    encode_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 512  # encoded between two steps
    cache_bytes: Annotated[int, Field(ge=0)] = 32 << 20  # of translated sentences; 0: no cache
    repetition_guard: bool = True  # ends searches that repeat themselves


class GenerationConfig(Section):
    """How sentences are generated; what is not given comes from the model's own files."""

    beams: Annotated[int, Field(ge=1, le=64)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=65_536)] | None = None
    min_new_tokens: Annotated[int, Field(ge=0, le=65_536)] | None = None
    length_penalty: Annotated[float, Field(ge=-10.0, le=10.0)] | None = None
    early_stopping: bool | Literal["never"] | None = None
    repetition_penalty: Annotated[float, Field(gt=0.0, le=100.0)] | None = None
    no_repeat_ngram: Annotated[int, Field(ge=0, le=100)] | None = None
    sample: bool | None = None
    temperature: Annotated[float, Field(gt=0.0, le=100.0)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None


class LatestPolicy(Section):
    """Serve the newest `latest` versions."""

    latest: Annotated[int, Field(ge=1, le=1000)] = 1


class SpecificPolicy(Section):
    """Serve exactly these versions."""

    specific: tuple[str, ...] = Field(min_length=1)


VersionPolicy = Literal["all"] | LatestPolicy | SpecificPolicy


class GoldenConfig(Section):
    """How close outputs must come to the version's golden samples."""

    rtol: Annotated[float, Field(ge=0.0)] = 1e-3
    atol: Annotated[float, Field(ge=0.0)] = 1e-4
    similarity: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0  # of translations; 1: to the letter


class ModelConfig(Section):
    """A whole `model.toml`; every key has a default inferred from the files."""

    task: TaskName | None = None
    description: str = ""
    class_labels: str | None = None  # file in the version folder, or beside model.toml
    device: str | None = None
    precision: Literal["fp32", "bf16", "int8", "auto"] = "fp32"
    version_policy: VersionPolicy = LatestPolicy()
    version_labels: dict[str, str] = Field(default_factory=dict)
    preprocess: PreprocessConfig | None = None
    classification: ClassificationConfig = ClassificationConfig()
    embedding: EmbeddingConfig | None = None
    translation: TranslationConfig = TranslationConfig()
    generation: GenerationConfig = GenerationConfig()
    batching: BatchingConfig = BatchingConfig()
    golden: GoldenConfig = GoldenConfig()

    @field_validator("class_labels")
    @classmethod
    def _inside_the_model(cls, value: str | None) -> str | None:
        if value is None:
            return None
        path = PurePosixPath(value)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in value:
            raise ValueError(f"expected a file in the model's folder, got {value!r}")
        return value
