"""Compile requests as JSON: what a child is told, and what a cache key covers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from engine.compiler import ALL, CompileRequest, Outputs
from engine.limits import Limits


def write_request(request: CompileRequest) -> dict[str, Any]:
    """Return what decides the artifact.

    Operators are not part of it: a child has the engine's own.
    """
    outputs: Any = request.outputs
    if outputs is ALL:
        outputs = "ALL"
    elif outputs is not None:
        outputs = list(outputs)
    return {
        "outputs": outputs,
        "keep": list(request.keep),
        "level": request.level,
        "limits": asdict(request.limits),
        "precision": request.precision,
        "role": request.role,
    }


def read_request(data: Mapping[str, Any]) -> CompileRequest:
    """Return the request that `write_request` wrote."""
    outputs: Outputs = data["outputs"]
    if outputs == "ALL":
        outputs = ALL
    return CompileRequest(
        outputs=outputs,
        keep=tuple(data["keep"]),
        level=data["level"],
        limits=Limits(**data["limits"]),
        precision=data["precision"],
        role=data["role"],
    )
