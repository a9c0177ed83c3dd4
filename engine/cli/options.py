"""What several commands take: a model, values to keep, inputs, a device."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.artifact import map_artifact
from engine.compiler import ALL, CompileRequest, Outputs
from engine.container import is_container
from engine.device import CompileOptions
from engine.errors import InvalidInput
from engine.ir.types import parse_dim, symbols_of
from engine.loading import PRECISIONS, in_precision, load, model_from_artifact
from engine.random_feeds import random_feeds
from engine.session import Model

LEVELS = {"0": 0, "1": 1, "2": 2, "O0": 0, "O1": 1, "O2": 2}
Run = Callable[[argparse.Namespace], int | None]


def command(commands: Any, name: str, run: Run) -> argparse.ArgumentParser:
    """Add a command that takes a model and is described by the docstring of `run`."""
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=run.__doc__, description=run.__doc__
    )
    made.add_argument("model", type=Path, help="an .onnx file, or an artifact where that will do")
    made.set_defaults(run=run)
    return made


def add_compile_options(parser: argparse.ArgumentParser) -> None:
    """Add what decides how a model is compiled."""
    parser.add_argument(
        "--level", type=level, default=2, metavar="O2", help="optimisation level: O0, O1 or O2"
    )
    add_precision_option(parser)
    add_keep_option(parser)


def add_precision_option(parser: argparse.ArgumentParser) -> None:
    """Add what products compute in."""
    names = [name for name in PRECISIONS if name != "auto"]  # which needs samples
    parser.add_argument("--precision", choices=names, default="fp32", help="of products")


def add_keep_option(parser: argparse.ArgumentParser) -> None:
    """Add which values are kept."""
    parser.add_argument(
        "--keep", action="append", metavar="NAME", help="value to keep; 'ALL' at O0"
    )


def add_feed_options(parser: argparse.ArgumentParser) -> None:
    """Add where inputs come from."""
    parser.add_argument(
        "--input",
        "--inputs",
        dest="inputs",
        type=Path,
        metavar="FILE.npz",
        help="inputs; random when left out",
    )
    parser.add_argument("--seed", type=int, default=0, help="of random inputs")
    parser.add_argument(
        "--dim", action="append", default=[], metavar="N=4", help="size of a symbol"
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add what `load_model` and `read_feeds` look at."""
    add_feed_options(parser)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    add_precision_option(parser)
    add_keep_option(parser)


def compiler_told(options: argparse.Namespace) -> tuple[CompileRequest, CompileOptions]:
    """Return how the options of `add_compile_options` have a model compiled."""
    request = CompileRequest(outputs=kept_values(options), level=options.level)
    return in_precision(options.precision, request, CompileOptions(request.limits))


def level(text: str) -> int:
    """Return an optimisation level from "O2" or "2"."""
    if text not in LEVELS:
        raise argparse.ArgumentTypeError(f"{text!r}; expected O0, O1 or O2")
    return LEVELS[text]


def kept_values(options: argparse.Namespace) -> Outputs:
    """Return what `--keep` asks for, as `engine.load` takes it."""
    if options.keep and "ALL" in options.keep:
        return ALL
    return tuple(options.keep) if options.keep else None


def load_model(options: argparse.Namespace) -> Model:
    """Load a model file or an artifact on the device of the options."""
    if is_container(options.model):
        artifact = map_artifact(options.model)
        return model_from_artifact(artifact, options.device, precision=options.precision)
    return load(
        options.model,
        device=options.device,
        precision=options.precision,
        threads=options.threads,
        outputs=kept_values(options),
    )


def read_feeds(options: argparse.Namespace, model: Model) -> dict[str, np.ndarray]:
    """Return inputs from the file of the options, or random ones."""
    if options.inputs is None:
        return random_feeds(model.inputs, _sizes(options.dim, model), options.seed)
    try:
        with np.load(options.inputs, allow_pickle=False) as file:
            return {spec.name: file[spec.name] for spec in model.inputs}
    except KeyError as error:
        names = [spec.name for spec in model.inputs]
        raise InvalidInput(f"{options.inputs}: {error}; the model needs {names}") from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"cannot read inputs from {options.inputs}: {error}") from error


def _sizes(texts: Sequence[str], model: Model) -> dict[str, int]:
    sizes = {}
    dims = {dim for spec in model.inputs for dim in spec.shape or () if isinstance(dim, str)}
    symbols = dims.union(*(symbols_of(parse_dim(dim)) for dim in dims))
    for text in texts:
        name, equals, number = text.partition("=")
        if not (name and equals and number.isdigit()):
            raise InvalidInput(f"--dim {text!r}: expected a symbol and a number, as in N=4")
        if name not in symbols:
            raise InvalidInput(f"--dim {text!r}: the inputs' symbols are {sorted(symbols)}")
        sizes[name] = int(number)
    return sizes
