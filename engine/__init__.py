"""Compiles ONNX models for this machine and runs them: `engine.load(path).run(feeds)`.

The public surface; `engine.custom` adds what operators of your own are written with. Everything
else in the package is internal and may change.
"""

import engine.ops  # noqa: F401  (fills the operator registry)
from engine.choosing import Bound
from engine.compiler import ALL
from engine.device import RunControl
from engine.errors import (
    DeviceUnavailable,
    EngineError,
    InvalidInput,
    InvalidModel,
    ModelClosed,
    ResourceLimit,
    RunCancelled,
    RunFailed,
    UnsupportedOp,
)
from engine.generation.decoding import Decoder, Seq2Seq, StepResult
from engine.generation.loading import load_seq2seq
from engine.generation.search import Hypothesis, Search, SlotSizes
from engine.heads import append_classifier
from engine.limits import Limits
from engine.loading import load
from engine.lowering.batch_axes import BatchAxes
from engine.model_files import external_data_files
from engine.ops.define import make_elementwise
from engine.ops.registry import Operator, make_operator
from engine.profiler import NodeProfile, ProfileReport
from engine.session import Candidate, MemoryReport, Model, PrecisionChoice, TensorSpec
from engine.slots import Slots

__all__ = [
    "ALL",
    "BatchAxes",
    "Bound",
    "Candidate",
    "Decoder",
    "DeviceUnavailable",
    "EngineError",
    "Hypothesis",
    "InvalidInput",
    "InvalidModel",
    "Limits",
    "MemoryReport",
    "Model",
    "ModelClosed",
    "NodeProfile",
    "Operator",
    "PrecisionChoice",
    "ProfileReport",
    "ResourceLimit",
    "RunCancelled",
    "RunControl",
    "RunFailed",
    "Search",
    "Seq2Seq",
    "SlotSizes",
    "Slots",
    "StepResult",
    "TensorSpec",
    "UnsupportedOp",
    "append_classifier",
    "external_data_files",
    "load",
    "load_seq2seq",
    "make_elementwise",
    "make_operator",
]
