"""lmms-eval's printed table without the counters of ours that are zero: three quarters of its rows.

The results that it writes keep them: what is not there can't be told from what was not counted.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any

from lmms_flow.harness import host

COUNTERS = ("errors", "skipped", "unreadable")
_MARK = "_lmms_flow_leaves_out_zeros"


def leave_out_zeros() -> None:
    """Has lmms-eval's command line print no row for a counter of ours at zero. Calling it again changes nothing."""
    module = sys.modules.get(host.MAKE_TABLE.module)
    if module is None:
        return
    original = host.MAKE_TABLE.take(module)
    if getattr(original, _MARK, False):
        return

    @functools.wraps(original)
    def make_table(result_dict: Any, column: str = "results", *more: Any, **named: Any) -> Any:
        return original(without_zeros(result_dict, column), column, *more, **named)

    setattr(make_table, _MARK, True)
    setattr(module, host.MAKE_TABLE.name, make_table)


def without_zeros(results: Mapping[str, Any], column: str) -> dict[str, Any]:
    """The results, their `column` without zero counters; metrics of tasks that are not ours stay as they are."""
    shown = {name: _shown(metrics) for name, metrics in results.get(column, {}).items()}
    return {**results, column: shown}


def _shown(metrics: Any) -> Any:
    if not isinstance(metrics, Mapping):
        return metrics
    counted = {name.partition(",")[0] for name in metrics} & set(COUNTERS)
    if len(counted) < 2:  # ours come together
        return dict(metrics)
    return {
        name: value
        for name, value in metrics.items()
        if not (value == 0 and name.partition(",")[0] in counted)
        and not any(name.startswith(f"{each}_stderr") and not _value(metrics, each) for each in counted)
    }


def _value(metrics: Mapping[str, Any], counter: str) -> Any:
    return next((value for name, value in metrics.items() if name.partition(",")[0] == counter), 0)
