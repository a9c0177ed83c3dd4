"""The layers hold: a lower part never imports a higher one; libraries stay where they belong.

Imports are read from the source, so what is imported late or only sometimes counts as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OWN = ("engine", "server")

# From the lowest to the highest. Parts of one row are siblings: they do not know each other.
LAYERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "engine": (
        ("errors",),
        ("dtypes", "limits", "container"),
        ("ir",),
        ("device", "feeds", "graph_json", "isolate", "renaming", "transfers", "parameters"),
        ("ops",),
        ("inference", "size_guard", "body_kernel"),
        ("evaluation", "interpreter"),
        ("frontend", "passes"),
        ("lowering", "profiler", "slots"),
        ("cpu", "cuda", "reference", "artifact", "artifact_source", "external_files"),
        ("compiler", "description"),
        ("session", "artifact_cache", "artifact_compiler", "request_json", "heads", "model_files"),
        ("choosing",),
        ("loading", "random_feeds", "child", "comparison", "custom"),
        ("generation",),
        ("",),  # engine/__init__.py, the public surface
        ("cli",),
        ("__main__",),
    ),
    "server": (
        ("", "errors"),  # server/__init__.py holds the version and imports nothing
        ("write_watch",),
        ("joined_writes",),
        ("settings", "model_config", "metrics", "tensors", "schemas", "http_protocol", "pages"),
        ("logging", "execution", "preprocessing", "text", "index"),
        ("tasks", "batching", "repository"),
        ("translation",),
        ("serving",),
        ("similarity",),
        ("learning",),
        ("handlers",),
        ("routes",),
        ("app",),
        ("process",),
        ("commands",),
        ("cli",),
        ("__main__",),
    ),
}

# Library -> the only parts that may import it.
ONLY_IN = {
    "onnx": ("engine.frontend",),
    "google": ("engine.frontend",),  # protobuf comes with onnx
    "llvmlite": ("engine.cpu",),
    "cupy": ("engine.cuda",),
    "faiss": ("server.index.search",),
    "usearch": ("server.index.search",),
    "hnswlib": ("server.index.search",),
    "psycopg": ("server.index.postgres",),
    "sqlite3": ("server.index.embedded",),
    "sklearn": ("server.learning", "server.similarity.projection"),
    "umap": ("server.similarity.projection",),
    "engine": ("engine", "server.execution", "server.repository.loader"),
    "server": ("server",),
    "fastapi": ("server.app", "server.routes"),
    "starlette": ("server.app", "server.routes"),
    "uvicorn": ("server.process", "server.commands", "server.http_protocol"),
    "PIL": ("server.preprocessing", "engine.ops.image_decoding"),
    "prometheus_client": ("server.metrics",),
    "py3langid": ("server.text",),
    "sentencepiece": ("server.text",),
    "sentencex": ("server.text",),
    "tokenizers": ("server.text",),
    "watchfiles": ("server.repository",),
}
# Whole families that a package must not touch, whoever asks.
NEVER = {
    "engine": ("fastapi", "starlette", "pydantic", "pydantic_settings", "asyncio", "uvicorn"),
    "server": ("onnx", "llvmlite", "cupy"),
}
NOWHERE = ("onnxruntime", "torch", "transformers", "scipy", "pickle")


@dataclass(frozen=True)
class Import:
    module: str  # who imports
    target: str  # what, as written: "engine.ir.graph", or "engine.ir.graph.Node" for a name in it
    line: int
    inside_function: bool

    @property
    def library(self) -> str:
        return self.target.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def modules() -> dict[str, Path]:
    found = {}
    for package in OWN:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def read_imports(module: str, source: str, *, is_package: bool = False) -> Iterator[Import]:
    home = module.split(".") if is_package else module.split(".")[:-1]

    def absolute(node: ast.ImportFrom) -> str:
        if not node.level:
            return str(node.module)
        kept = home[: len(home) - node.level + 1]
        return ".".join([*kept, node.module] if node.module else kept)

    def visit(node: ast.AST, inside: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(module, alias.name, child.lineno, inside)
            elif isinstance(child, ast.ImportFrom):
                for alias in child.names:
                    yield Import(module, f"{absolute(child)}.{alias.name}", child.lineno, inside)
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, inside or is_function)

    yield from visit(ast.parse(source), False)


@cache
def all_imports() -> tuple[Import, ...]:
    return tuple(
        each
        for module, path in modules().items()
        for each in read_imports(module, path.read_text(), is_package=path.name == "__init__.py")
    )


def part_of(name: str) -> tuple[str, str]:
    """Split into package and part: "engine.ir.graph.Node" -> ("engine", "ir")."""
    package, _, rest = name.partition(".")
    part = rest.partition(".")[0]
    is_part = any(part in row for row in LAYERS[package])
    return package, part if is_part and part else ""


def row_of(package: str, part: str) -> int:
    return next(i for i, row in enumerate(LAYERS[package]) if part in row)


def is_within(module: str, place: str) -> bool:
    return module == place or module.startswith(place + ".")


@pytest.mark.parametrize("package", OWN)
def test_every_part_has_a_layer(package: str) -> None:
    named = {part for row in LAYERS[package] for part in row}
    present = {
        name.split(".")[1] if "." in name else "" for name in modules() if name.startswith(package)
    }
    assert present <= named, f"give these a row in LAYERS: {sorted(present - named)}"


@pytest.mark.parametrize("package", OWN)
def test_lower_layers_never_import_higher_ones(package: str) -> None:
    wrong = []
    for each in all_imports():
        if each.library != package or not is_within(each.module, package):
            continue
        _, source = part_of(each.module)
        _, target = part_of(each.target)
        if source != target and row_of(package, target) >= row_of(package, source):
            wrong.append(str(each))
    assert not wrong


def test_own_packages_are_imported_at_the_top_of_a_module() -> None:
    assert not [str(each) for each in all_imports() if each.inside_function and each.library in OWN]


def test_libraries_stay_where_they_belong() -> None:
    assert not [
        str(each)
        for each in all_imports()
        if each.library in ONLY_IN
        and not any(is_within(each.module, place) for place in ONLY_IN[each.library])
    ]


def test_packages_stay_free_of_what_they_must_not_know() -> None:
    assert not [
        str(each)
        for each in all_imports()
        if each.library in NOWHERE or each.library in NEVER[each.module.partition(".")[0]]
    ]


def test_the_server_sees_only_the_root_of_the_engine() -> None:
    """`import engine` and `from engine import Model`, never a module inside."""
    inner = {part for row in LAYERS["engine"] for part in row if part}
    assert not [
        str(each)
        for each in all_imports()
        if each.library == "engine"
        and is_within(each.module, "server")
        and part_of(each.target)[1] in inner
    ]


def test_the_reader_sees_late_and_hidden_imports() -> None:
    source = "def f():\n    if x:\n        from engine.ir import graph\nimport onnx.helper\n"
    late, plain = read_imports("engine.ops.shape", source)
    assert (late.target, late.inside_function, late.line) == ("engine.ir.graph", True, 3)
    assert (plain.library, plain.inside_function) == ("onnx", False)
    relative = "from . import base\nfrom ..a import b"
    near, far = read_imports("server.tasks", relative, is_package=True)
    assert (near.target, far.target) == ("server.tasks.base", "server.a.b")
