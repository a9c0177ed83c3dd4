"""The shapes of bodies and answers, for the OpenAPI page.

The hot routes read JSON without these models; a test holds the two together.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel


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


class Detected(BaseModel):
    """What language a text seems to be in."""

    language: str
    confidence: float = Field(ge=0, le=1)


class WordLink(BaseModel):
    """A word of a translation and one that it comes from.

    Where they begin and end in the sentence's `source` and `text`, and how much the model looked
    there.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    weight: float = Field(ge=0, le=1)


class TranslatedSentence(BaseModel):
    """One sentence of a text, when `sentences`, `log_probabilities` or `alignment` is asked for."""

    source: str
    start: int
    text: str
    score: float
    tokens: list[int]
    truncated: bool
    split: bool
    repetition: bool
    cached: bool
    log_probabilities: list[float] | None = None
    alignment: list[WordLink] | None = None


class Alternative(BaseModel):
    """A translation that is nearly as good."""

    text: str
    score: float


class Translated(BaseModel):
    """The translation of one text."""

    text: str
    score: float
    tokens: int
    truncated: bool
    split: bool
    repetition: bool
    untranslated: int = Field(description="characters in letters that the model does not know")
    source: str | None
    target: str | None
    detected: Detected | None = Field(None, description="with source: auto")
    alternatives: list[Alternative] | None = Field(None, description="with n_best")
    seed: int | None = Field(None, description="with sample")
    sentences: list[TranslatedSentence] | None = None


class Tensors(BaseModel):
    """The result of any other model for one input."""

    outputs: dict[str, NamedTensor]


class PredictAnswer(BaseModel):
    """One result per input, in order; an input that failed has its error in its place."""

    model: str
    version: str
    task: str
    id: str
    results: list[Classified | Embedded | Translated | Tensors | Failure]


class TranslateBody(BaseModel):
    """What `/translate` reads as JSON; every parameter may also stand in `parameters`."""

    text: str | list[str]
    model: str | None = Field(None, description="may be left out when one fits")
    version: str | None = None
    label: str | None = None
    source: str | None = Field(None, description="language code, or auto")
    target: str | None = None
    format: Literal["text", "html"] = "text"
    glossary: dict[str, str] | list[str] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict, examples=[{"beams": 4, "n_best": 2}])
    id: str | None = Field(None, description="comes back in the answer")
    timeout_s: float | None = Field(None, gt=0)
    priority: int = Field(0, ge=-9, le=9)


class TranslateAnswer(BaseModel):
    """One translation per text, in order; a text that failed has its error in its place."""

    model: str
    version: str
    task: str
    id: str
    translations: list[Translated | Failure]


class LibreTranslateBody(BaseModel):
    """The same in LibreTranslate's words."""

    q: str | list[str]
    source: str = Field(description="language code, or auto")
    target: str
    format: Literal["text", "html"] = "text"
    alternatives: int = Field(0, ge=0, le=16)
    api_key: str | None = Field(None, description="accepted, and ignored")


class LibreDetected(BaseModel):
    """A language and a percentage."""

    language: str
    confidence: float = Field(ge=0, le=100)


class LibreTranslateAnswer(BaseModel):
    """The same in LibreTranslate's words."""

    translatedText: str | list[str]  # LibreTranslate's name
    detectedLanguage: LibreDetected | list[LibreDetected] | None = None  # likewise
    alternatives: list[str] | list[list[str]] | None = None


class LibreDetect(BaseModel):
    """A text whose language is asked for."""

    q: str


class LibreDetections(RootModel[list[LibreDetected]]):
    """Languages, likeliest first."""


class LibreLanguage(BaseModel):
    """A language, and what it can be translated to."""

    code: str
    name: str
    targets: list[str]


class LibreLanguages(RootModel[list[LibreLanguage]]):
    """Every language that there is."""


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


class CollectionBody(Schema):
    """What a collection is made with; without model and dim, the model that embeds pictures."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    model: str | None = Field(None, description="null: its vectors come ready-made")
    metric: Literal["cosine", "dot", "l2"] = "cosine"
    dim: int | None = Field(None, ge=1, description="of ready-made vectors")


class CollectionStatus(BaseModel):
    """A collection, how much it holds, and how it is searched."""

    name: str
    model: str | None
    metric: str
    count: int
    pictures: int
    bytes: int
    dim: int | None
    index: dict[str, Any] | None
    model_config = ConfigDict(extra="allow")


class Base64Vector(Schema):
    """Little-endian float32 numbers as base64 text."""

    b64: str


class CollectionItem(Schema):
    """An item: a picture or a vector; a picture without an id is named by its content."""

    id: str | None = Field(None, max_length=512)
    image: Base64Image | None = None
    vector: list[float] | Base64Vector | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class ItemsBody(Schema):
    """Several items."""

    items: list[CollectionItem]


class ItemsAnswer(BaseModel):
    """What became of the items; each that failed has its id and its error."""

    collection: str
    done: int
    added: int
    replaced: int
    failed: int
    total: int | None
    errors: list[dict[str, Any]]
    ids: list[str] | None = None
    errors_omitted: int | None = None


class DeleteItemsBody(Schema):
    """Which items, by id or by filter."""

    ids: list[str] | None = None
    filter: dict[str, Any] | None = None


class MetadataBody(Schema):
    """The metadata that an item has from now on."""

    metadata: dict[str, Any]


class SimilarQueryBody(Schema):
    """One query: a picture, an item or a vector."""

    image: Base64Image | None = None
    id: str | None = None
    vector: list[float] | Base64Vector | None = None


class SimilarBody(SimilarQueryBody):
    """What `/similar` reads as JSON: one query, or `queries`."""

    queries: list[SimilarQueryBody] | None = None
    collection: str | None = Field(None, description="may be left out when there is one")
    version: str | None = Field(None, description="of the model; default: the one that serves")
    label: str | None = None
    k: int = Field(10, ge=1)
    offset: int = Field(0, ge=0)
    min_score: float | None = None
    filter: dict[str, Any] | None = Field(None, examples=[{"label": "cat", "year": {"$gte": 2020}}])
    exact: bool = False
    include_self: bool = False
    wants: list[Literal["metadata", "thumbnail", "vector"]] = Field(["metadata"], alias="return")
    timeout_s: float | None = Field(None, gt=0)
    priority: int = Field(0, ge=-9, le=9)


class Neighbour(BaseModel):
    """One hit."""

    id: str
    score: float
    metadata: dict[str, Any] | None = None
    thumbnail: dict[str, str] | None = None
    vector: list[float] | None = None


class Neighbours(BaseModel):
    """The hits of one query, nearest first."""

    hits: list[Neighbour]


class SimilarAnswer(BaseModel):
    """One result per query, in order; a query that failed has its error in its place."""

    collection: str
    model: str | None
    version: str | None
    space: str | None = Field(description="whose vectors were compared: model@version:hash")
    missing: int = Field(description="items that this version has not embedded yet")
    id: str
    thumbnails_left_out: int | None = Field(
        None, description="hits without their thumbnail, for which the answer had no room"
    )
    results: list[Neighbours | Failure]


SCHEMAS: tuple[type[BaseModel], ...] = (
    PredictBody,
    PredictAnswer,
    TranslateBody,
    TranslateAnswer,
    LibreTranslateBody,
    LibreTranslateAnswer,
    LibreDetect,
    LibreDetections,
    LibreLanguages,
    Failure,
    V2Request,
    V2Reply,
    V1Predict,
    RepositoryIndexBody,
    VersionBody,
    ModelStatus,
    CollectionBody,
    CollectionStatus,
    CollectionItem,
    ItemsBody,
    ItemsAnswer,
    DeleteItemsBody,
    MetadataBody,
    SimilarBody,
    SimilarAnswer,
)
