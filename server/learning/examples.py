"""Labelled pictures, and what must hold before anything can be learned from them. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from server.errors import InvalidInput, PayloadTooLarge

MAX_PICTURES = 10_000
MAX_BYTES = 1 << 30  # of all pictures together, which are in memory
MAX_CLASSES = 500
LEAST_CLASSES = 2
LEAST_PER_CLASS = 2
MAX_LABEL_CHARS = 200
SHOWN = 20  # of a list in a message


@dataclass(frozen=True, slots=True)
class Example:
    """One picture with its label.

    Attributes:
        name: How its owner calls it.
        label: Its class.
        digest: What is the same for the same picture file, and for no other.
        data: The file; None where only its features are known.
        features: (d,) float32, where they are known already.
    """

    name: str
    label: str
    digest: str
    data: bytes | None = None
    features: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, name: str, label: str, data: bytes) -> Example:
        """Return an example of a picture file."""
        return cls(name, label, hashlib.sha256(data).hexdigest(), data)


@dataclass(frozen=True, slots=True)
class Lesson:
    """Examples that can be learned from.

    Attributes:
        examples: In order of label and name, each content once.
        labels: The classes, in the order of their indices.
        duplicates: Names of pictures that came before under another name and the same label.
    """

    examples: tuple[Example, ...]
    labels: tuple[str, ...]
    duplicates: tuple[str, ...] = ()

    @property
    def targets(self) -> list[int]:
        """Return the index of each example's class."""
        index = {label: k for k, label in enumerate(self.labels)}
        return [index[example.label] for example in self.examples]


def check_size(examples: Sequence[Example]) -> None:
    """Refuse what is too much, or nothing.

    Raises:
        InvalidInput: no pictures, a label that cannot be one, too many classes.
        PayloadTooLarge: too many pictures.
    """
    if not examples:
        raise _wrong(
            "there are no pictures; send an archive with a folder per class, files in fields named "
            "after their class, or JSON items with image and label",
            got=0,
        )
    if len(examples) > MAX_PICTURES:
        raise PayloadTooLarge(
            f"{len(examples)} pictures are more than the {MAX_PICTURES} that one classifier learns "
            "from; send fewer of each class",
            limit=MAX_PICTURES,
        )
    check_bytes(sum(len(example.data or b"") for example in examples))
    for example in examples:
        _check_label(example)
    classes = {example.label for example in examples}
    if len(classes) > MAX_CLASSES:
        raise _wrong(f"{len(classes)} classes are more than {MAX_CLASSES}", got=len(classes))


def check_bytes(total: int) -> None:
    """Refuse pictures that take too much memory together."""
    if total > MAX_BYTES:
        raise PayloadTooLarge(
            f"the pictures take more than {MAX_BYTES} bytes; send smaller ones, or fewer",
            limit=MAX_BYTES,
        )


def _check_label(example: Example) -> None:
    label = example.label
    if not label.strip() or len(label) > MAX_LABEL_CHARS or not label.isprintable():
        raise _wrong(
            f"picture {example.name[:100]!r} has the label {label[:40]!r}; expected 1 to "
            f"{MAX_LABEL_CHARS} printable characters",
            got=label[:100],
        )
    if label != label.strip():
        raise _wrong(f"the label {label[:40]!r} begins or ends with a space", got=label[:100])


def make_lesson(examples: Sequence[Example]) -> Lesson:
    """Put examples in order, each content once.

    Raises:
        InvalidInput: fewer than two classes, a class with a single picture, or one picture in two
            classes; the message names them.
        PayloadTooLarge: too many pictures.
    """
    check_size(examples)
    ordered = sorted(examples, key=lambda each: (each.label, each.name))
    first: dict[str, Example] = {}
    duplicates, torn = [], []
    for example in ordered:
        known = first.setdefault(example.digest, example)
        if known.label != example.label:
            torn.append((known, example))
        elif known is not example:
            duplicates.append(example.name)
    if torn:
        raise _in_two_classes(torn)
    kept = tuple(first.values())
    labels = tuple(dict.fromkeys(example.label for example in kept))
    check_counts(Counter(example.label for example in kept), duplicates)
    return Lesson(kept, labels, tuple(duplicates))


def check_counts(counts: Counter[str], duplicates: Sequence[str] = ()) -> None:
    """Refuse fewer than two classes, and classes of which there are fewer than two pictures."""
    if len(counts) < LEAST_CLASSES:
        [only] = counts or {"none": 0}
        raise _wrong(
            f"all pictures are of one class, {only!r}; a classifier needs at least two: put each "
            "class into a folder of its own",
            got=1,
        )
    few = sorted(label for label, count in counts.items() if count < LEAST_PER_CLASS)
    if few:
        same = f" (not counting {len(duplicates)} copies)" if duplicates else ""
        raise _wrong(
            f"of {_listed(few)} there is one picture only{same}; each class needs at least "
            f"{LEAST_PER_CLASS} different ones, and 10 are better",
            got=few[:SHOWN],
        )


def joined(kept: Sequence[Example], new: Sequence[Example]) -> tuple[list[Example], list[str]]:
    """Add new examples to kept ones, and return also which pictures have got another label.

    A kept picture that comes again under another label has been corrected: the new one holds.

    Raises:
        InvalidInput: a new picture is in two classes, so that neither corrects anything.
    """
    first: dict[str, Example] = {}
    for example in new:
        first.setdefault(example.digest, example)
    torn = [(first[each.digest], each) for each in new if first[each.digest].label != each.label]
    if torn:
        raise _in_two_classes(torn)
    labels = {digest: example.label for digest, example in first.items()}
    known = {example.digest for example in kept}
    result, relabelled = [], []
    for example in kept:
        label = labels.get(example.digest, example.label)
        if label != example.label:
            relabelled.append(example.name)
            example = replace(example, label=label)
        result.append(example)
    taken = dict.fromkeys((example.name for example in kept), 2)
    result += [_renamed(each, taken) for each in new if each.digest not in known]
    return result, relabelled


def _renamed(example: Example, taken: dict[str, int]) -> Example:
    """Keep names apart: two uploads often both have a `1.jpg`. `taken` has the next number."""
    name = example.name
    while name in taken:
        number = taken[example.name]
        taken[example.name] = number + 1
        name = f"{example.name} ({number})"
    taken[name] = 2
    return example if name == example.name else replace(example, name=name)


def _in_two_classes(torn: Sequence[tuple[Example, Example]]) -> InvalidInput:
    pairs = [
        f"{one.name!r} ({one.label}) is {other.name!r} ({other.label})"
        for one, other in torn[:SHOWN]
    ]
    more = f", and {len(torn) - SHOWN} more" if len(torn) > SHOWN else ""
    error = _wrong(
        f"the same picture is in two classes: {'; '.join(pairs)}{more}; keep it in one",
        got=len(torn),
    )
    error.extra["duplicates"] = [[one.name, other.name] for one, other in torn]
    return error


def unreadable(failed: Sequence[tuple[str, str]]) -> InvalidInput:
    """Return the error of pictures that cannot be read: (name, why) each."""
    listed = "; ".join(f"{name!r}: {why}" for name, why in failed[:SHOWN])
    more = f"; and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
    error = _wrong(
        f"{len(failed)} pictures cannot be read: {listed}{more}; take them out, or send "
        "skip_unreadable=true",
        got=len(failed),
    )
    error.extra["unreadable"] = [name for name, _ in failed]
    return error


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(repr(name) for name in names[:SHOWN]) + more


def _wrong(message: str, got: object) -> InvalidInput:
    expected = "two or more classes with two or more pictures each"
    return InvalidInput(message, field="pictures", expected=expected, got=got)
