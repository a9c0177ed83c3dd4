"""The shapes of bodies and answers, for the OpenAPI page.

The hot routes read JSON without these models; a test holds the two together.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Schema(BaseModel):
    """A body or an answer that has no other keys."""

    model_config = ConfigDict(extra="forbid")


class Base64Image(Schema):
    """A picture's file as base64 text."""

    b64: str


class ImageInput(Schema):
    """A picture."""

    image: Base64Image


class TextInput(Schema):
    """A text."""

    text: str


class TensorInput(Schema):
    """Named tensors as nested lists, with or without the axis of rows."""

    tensors: dict[str, Any]


class PredictBody(Schema):
    """What `/predict`, `/classify` and `/embed` read as JSON."""

    inputs: list[ImageInput | TextInput | TensorInput] = Field(min_length=1)
    model: str | None = Field(None, description="may be left out when exactly one is loaded")
    version: str | None = None
    label: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict, examples=[{"top_k": 5}])
    id: str | None = Field(None, description="comes back in the answer")
    timeout_s: float | None = Field(None, gt=0)
    priority: int = Field(0, ge=-9, le=9)


class Failure(BaseModel):
    """The one shape of an error."""

    error: str
    code: str
    model_config = ConfigDict(extra="allow")


class Prediction(BaseModel):
    """One class and its score."""

    label: str
    index: int
    score: float


class Classified(BaseModel):
    """The result of a classifier for one input."""

    predictions: list[Prediction] | list[list[Prediction]]


class Embedded(BaseModel):
    """The result of an embedding model for one input."""

    embedding: list[Any] | str
    dim: int
    normalized: bool


class NamedTensor(BaseModel):
    """One output of a model that takes and gives tensors."""

    dtype: str
    shape: list[int]
    data: list[Any]


class Tensors(BaseModel):
    """The result of any other model for one input."""

    outputs: dict[str, NamedTensor]


class PredictAnswer(BaseModel):
    """One result per input, in order; an input that failed has its error in its place."""

    model: str
    version: str
    task: str
    id: str
    results: list[Classified | Embedded | Tensors | Failure]


class V2Tensor(BaseModel):
    """A tensor of the Open Inference Protocol."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class V2Output(BaseModel):
    """An output that a request names."""

    name: str
    parameters: dict[str, Any] | None = None


class V2Request(BaseModel):
    """An infer request; binary tensors follow the JSON, see `Inference-Header-Content-Length`."""

    inputs: list[V2Tensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[V2Output] | None = None


class V2Reply(BaseModel):
    """The answer to an infer request."""

    model_name: str
    model_version: str
    outputs: list[V2Tensor]
    id: str | None = None


class V1Predict(BaseModel):
    """Rows (`instances`) or columns (`inputs`), one of the two."""

    instances: list[Any] | None = None
    inputs: dict[str, Any] | list[Any] | None = None
    signature_name: str | None = None


class RepositoryIndexBody(BaseModel):
    """Which versions to list."""

    ready: bool = False


class VersionBody(BaseModel):
    """Which version; for load and unload, none means the whole model."""

    version: str | None = None


class ModelStatus(BaseModel):
    """A model and the state of its versions."""

    name: str
    versions: list[dict[str, Any]]
    default: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    model_config = ConfigDict(extra="allow")


SCHEMAS: tuple[type[BaseModel], ...] = (
    PredictBody,
    PredictAnswer,
    Failure,
    V2Request,
    V2Reply,
    V1Predict,
    RepositoryIndexBody,
    VersionBody,
    ModelStatus,
)
