"""Checks a node against ONNX's own schemas: attribute kinds, and how many inputs and outputs there
may be.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from onnx import NodeProto, defs

from engine.errors import InvalidModel
from engine.frontend.attributes import attribute_kind

# Withdrawn in the very version that brought it, but its text is clear and files have it.
STILL_TAKEN = frozenset({"GroupNormalization"})
ONNX_DOMAINS = frozenset({"", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training"})


@dataclass(frozen=True)
class Schema:
    """The facts of an ONNX schema that a file can break."""

    kinds: dict[str, int]
    required: frozenset[str]
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    deprecated: bool
    variables: tuple[str, ...]  # per input, the name of its type where others may share it, or ""
    repeats: bool  # whether the last input stands for any number of its kind

    def variable(self, i: int) -> str:
        """Return the name of input `i`'s type; inputs of one name share one element type."""
        if i >= len(self.variables):
            return self.variables[-1] if self.repeats else ""
        return self.variables[i]


@lru_cache(maxsize=4096)
def find_schema(op: str, version: int, domain: str) -> Schema | None:
    """Return the schema of an operator of an ONNX domain at an opset version, or None when it has
    none.
    """
    if domain not in ONNX_DOMAINS or not defs.has(op, domain):
        return None
    try:
        found = defs.get_schema(op, version, domain)
    except defs.SchemaError:
        return None
    attributes = found.attributes
    named = {each.type_param_str for each in found.type_constraints}
    return Schema(
        kinds={n: int(a.type.value) for n, a in attributes.items()},  # type: ignore[attr-defined]  # stub lacks it
        required=frozenset(name for name, a in attributes.items() if a.required),
        inputs=(found.min_input, found.max_input),
        outputs=(found.min_output, found.max_output),
        deprecated=bool(found.deprecated),
        variables=tuple(
            each.type_str if each.type_str in named and each.is_homogeneous else ""
            for each in found.inputs
        ),
        repeats=any(
            each.option == defs.OpSchema.FormalParameterOption.Variadic for each in found.inputs
        ),
    )


def check_node(proto: NodeProto, label: str, version: int, domain: str) -> None:
    """Raise `InvalidModel` when the node breaks its schema; operators without one are left to their
    own rules.
    """
    schema = find_schema(proto.op_type, version, domain)
    if schema is None:
        return
    where = f"node {label!r} ({proto.op_type})"
    if schema.deprecated and proto.op_type not in STILL_TAKEN:
        raise InvalidModel(f"{where}: the operator is deprecated at opset {version}")
    _check_count(where, "inputs", len(proto.input), schema.inputs)
    _check_count(where, "outputs", len(proto.output), schema.outputs)
    seen = set()
    for attribute in proto.attribute:
        name = attribute.name
        if name in seen:
            raise InvalidModel(f"{where}: attribute {name!r} is given twice")
        seen.add(name)
        expected = schema.kinds.get(name)
        if expected is None:
            known = ", ".join(sorted(schema.kinds)) or "none"
            raise InvalidModel(f"{where}: unknown attribute {name!r}; known are {known}")
        if not attribute.ref_attr_name and attribute_kind(attribute) != expected:
            raise InvalidModel(
                f"{where}: attribute {name!r} has kind {attribute_kind(attribute)}, "
                f"expected {expected}"
            )
    missing = schema.required - seen
    if missing:
        raise InvalidModel(f"{where}: attribute {min(missing)!r} is missing")


def _check_count(where: str, what: str, count: int, allowed: tuple[int, int]) -> None:
    low, high = allowed
    if not low <= count <= high:
        expected = f"{low}" if low == high else f"{low} to {high}"
        raise InvalidModel(f"{where}: {count} {what}, expected {expected}")
