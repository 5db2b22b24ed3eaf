"""Samples of traces that were asked alike: one collection for each checkpoint, benchmark and way to be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ..errors import ReportError
from ..records.arrays import Arrays
from ..trace.curves import AskedAlike
from .arms import benchmark_of
from .joining import frames_of, model_of
from .traces import Traced

Collection = TypeVar("Collection", bound=AskedAlike)


def in_windows(one: Traced, about: Mapping[str, Any]) -> dict[str, Any]:
    """What questions under knockouts in windows of layers have in common; no question yet."""
    return {
        "checkpoint": model_of(one.record),
        "benchmark": benchmark_of(one.record.base),
        "protocol": one.record.protocol,
        "frames": frames_of(one.record),
        "knockouts": tuple(map(str, about["knockouts"])),
        "centres": tuple(map(int, about["centres"])),
        "window": int(about["window"]),
        "style": str(about["style"]),
        "num_layers": int(about["num_layers"]),
        "samples": (),
    }


def collected(
    traced: Sequence[Traced], array: str, what: str, read: Callable[[Traced, Arrays], tuple[Collection, Any]]
) -> list[Collection]:
    """The collections of all samples that have an array.

    Args:
        traced: samples of any kind.
        array: the name of the array that samples of this kind have.
        what: they are called in an error.
        read: what a sample has in common with others (a collection without samples), and the sample.

    Raises:
        ReportError: the arrays of one can't be read.
    """
    found: dict[Any, tuple[Collection, list[Any]]] = {}
    for one in traced:
        if array not in one.record.shapes:
            continue
        arrays = one.arrays()
        try:
            asked, sample = read(one, arrays)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ReportError(
                f"{one.folder / one.record.arrays}: not the {what} of task {one.record.task}, document "
                f"{one.record.doc_id} ({type(error).__name__}: {error}); delete it and run again"
            ) from None
        found.setdefault(asked.asked, (asked, []))[1].append(sample)
    return [asked.holding(samples) for _, (asked, samples) in sorted(found.items(), key=_asked)]


def _asked(item: tuple[Any, object]) -> Any:
    return item[0]
