"""Which version of which operators a model, or a function in it, is written for."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import ModelProto, OperatorSetIdProto, defs

from engine.errors import InvalidModel
from engine.frontend.tensors import check_text
from engine.ops.registry import USER_DOMAIN

# What a file from before there were opset imports means.
FIRST_OPSET = 1
FIRST_IR_WITH_OPSETS = 3


def opset_versions(model: ModelProto) -> dict[str, int]:
    """Return the opset version of every domain that the model imports."""
    versions = read_opsets(model.opset_import)
    if not versions and model.ir_version < FIRST_IR_WITH_OPSETS:
        versions[""] = FIRST_OPSET
    if not versions:
        raise InvalidModel("the model imports no opset")
    return versions


def read_opsets(imports: Iterable[OperatorSetIdProto]) -> dict[str, int]:
    """Return domain -> version; unknown versions of ONNX's own domain and contradictions are
    refused.
    """
    versions: dict[str, int] = {}
    newest = defs.onnx_opset_version()
    for entry in imports:
        check_text(entry.domain)
        domain = plain_domain(entry.domain)
        if domain == USER_DOMAIN:
            raise InvalidModel(f"domain {domain!r} is for use inside of the engine only")
        if entry.version < 1 or (domain == "" and entry.version > newest):
            raise InvalidModel(
                f"opset {entry.version} of domain {domain!r}; known are 1 to {newest}"
            )
        if versions.setdefault(domain, entry.version) != entry.version:
            raise InvalidModel(f"opset of domain {domain!r} is imported in two versions")
    return versions


def plain_domain(domain: str) -> str:
    """Return a domain by the one name it has in graphs: ONNX's own is the empty one."""
    return "" if domain == "ai.onnx" else domain
