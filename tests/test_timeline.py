"""What a file's times mean: a constant rate where they fit one, else the rate that they have themselves."""

from __future__ import annotations

import math

import pytest

from lmms_flow.inputs.timeline import timeline


@pytest.mark.parametrize(
    ("times", "rate", "fps", "variable"),
    [
        ((0.0, 0.04, 0.08), 25.0, 25.0, False),
        ((5.0, 5.04, 5.08), 25.0, 25.0, False),  # they count from the first
        ((0.0, 0.04, 0.08), 50.0, 25.0, False),  # the container is wrong, the times are even
        ((0.0, 0.04, 0.08), 0.0, 25.0, False),
        ((0.0, 0.04, 0.08), math.nan, 25.0, False),
        ((0.0, 0.1, 0.5), 4.2, 4.2, True),  # what is stated, where it is within a tenth
        ((0.0, 0.1, 0.5), 5.0, 4.0, True),
        ((0.0, 0.1, 0.5), -4.0, 4.0, True),
        ((0.0, 0.1, 0.5), math.inf, 4.0, True),
        ((0.0, 0.0), 25.0, 25.0, True),  # two at one time
        ((0.0, 0.5), 25.0, 2.0, False),
        ((0.0,), 25.0, 25.0, False),
        ((0.0,), math.inf, math.nan, False),
        ((0.0,), math.nan, math.nan, False),
    ],
)
def test_the_rate_of_some_times(times: tuple[float, ...], rate: float, fps: float, variable: bool) -> None:
    found = timeline(times, rate)
    assert found.fps == pytest.approx(fps, nan_ok=True)
    assert found.is_variable is variable
    assert found.times.tolist() == pytest.approx([each - times[0] for each in times])
