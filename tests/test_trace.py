"""From knockout curves to the layers of a pathway: the paper's own tables first, then the borders of the rule."""

from __future__ import annotations

import pytest
import torch

from lmms_flow.engine import Knockout, SweepResult
from lmms_flow.flow import PRESETS, FlowError
from lmms_flow.flow.pathway import KINDS
from lmms_flow.trace import LayerBins, mean_relative_change, scaled_to_depth
from lmms_flow.trace.discovery import PAPER_BIN, PAPER_WINDOW

# Table E(b): mean relative change of the answer's probability in per cent, Action Antonym, bins of 5 layers.
# By model, in the order of a pathway's kinds: cross-frame, video to question, question to last.
TABLE_E_B = {
    "effective-llava-next-7b": (
        (-4.2, -11.1, -6.3, -0.2, 0, -0.2, -0.2),
        (-3.9, -15.1, -21.5, -5.6, -0.2, 0, 0),
        (-0.3, -1.2, -4.5, -19.3, -15.1, 0.7, 1.1),
    ),
    "effective-llava-next-13b": (
        (-0.7, -11.2, -11.1, -2.1, -0.2, -0.2, -0.2, -0.3),
        (-1.2, -16.7, -29.1, -9.2, -0.3, -0.2, -0.2, -0.2),
        (-1.8, -2.0, -4.6, -21.7, -28.4, -5.7, -0.1, -1.9),
    ),
    "effective-mini-internvl-4b": (
        (-2.3, -11.1, -11.5, -3.3, 0, 0.2, 0),
        (-2.4, -24.4, -35.0, -15.9, -1.3, -0.3, -0.2),
        (0, -1.3, -5.9, -30.8, -46.8, -14.1, -3.2),
    ),
    "effective-videollama3-7b": (
        (-65.1, -61.4, -14.9, -5.0, 0, 0.2),
        (-4.3, -7.2, -18.5, -16.3, -2.2, 0),
        (2.0, 3.7, 1.9, -2.7, -16.2, -19.1),
    ),
}
# Table E(a), typed again here, and the depth.
TABLE_E_A = {
    "effective-llava-next-7b": ((6, 15), (6, 20), (16, 25), 32),
    "effective-llava-next-13b": ((6, 15), (6, 20), (16, 30), 40),
    "effective-mini-internvl-4b": ((6, 15), (6, 20), (11, 30), 32),
    "effective-videollama3-7b": ((1, 15), (6, 20), (21, 28), 28),
}


@pytest.mark.smoke
@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
@pytest.mark.parametrize("model", TABLE_E_B)
def test_the_rule_leads_from_the_papers_table_e_b_to_its_table_e_a(model: str, kind: int) -> None:
    *ranges, depth = TABLE_E_A[model]
    layers = LayerBins(TABLE_E_B[model][kind], PAPER_BIN, depth).effective()
    assert (layers[0], layers[-1]) == ranges[kind]


def test_the_tables_are_of_all_presets_of_the_paper() -> None:
    assert set(TABLE_E_B) == set(TABLE_E_A) == {preset.name for preset in PRESETS if preset.from_paper}


def test_bins_start_at_layer_1_and_the_last_may_be_shorter() -> None:
    curve = [-10.0, 0.0, -4.0, -6.0, -8.0]
    bins = LayerBins.of(curve, 2)
    assert bins.means == (-5.0, -5.0, -8.0)
    assert [bins.layers(number) for number in range(3)] == [range(1, 3), range(3, 5), range(5, 6)]
    assert bins.effective() == range(5, 6)  # -5 itself does not lie below -5
    assert LayerBins.of(curve, 1).means == tuple(curve)
    assert LayerBins.of(curve, 9).layers(0) == range(1, 6)


def test_the_range_runs_from_the_first_effective_bin_to_the_last() -> None:
    bins = LayerBins((0.0, -6.0, 0.0, -50.0, 3.0), 2, 10)
    assert bins.effective() == range(3, 9)
    assert bins.effective(below=-10) == range(7, 9)
    assert not bins.effective(below=-60)


def test_widths_scale_with_the_depth() -> None:
    assert [scaled_to_depth(PAPER_WINDOW, depth) for depth in (32, 12, 2, 64)] == [9, 3, 1, 18]
    assert [scaled_to_depth(PAPER_BIN, depth) for depth in (32, 12, 2)] == [5, 2, 1]


def swept(baseline: float, *probabilities: float, source: str = "video") -> SweepResult:
    """A sweep of one knockout of which only the answer's probability matters."""
    row = torch.tensor([probabilities])
    layers = tuple(range(1, len(probabilities) + 1))
    empty = torch.zeros(0)
    return SweepResult((Knockout(source, "last"),), layers, 7, row, row.long(), empty, baseline, empty)


def test_curves_are_means_of_each_samples_own_change() -> None:
    """Of 0.8 to 0.4 and of 0.1 to 0.1 the mean is -25 %; the change of the means would be -44 %."""
    curves = mean_relative_change([swept(0.8, 0.4, 0.8), swept(0.1, 0.1, 0.2)])
    torch.testing.assert_close(curves, torch.tensor([[-25.0, 50.0]], dtype=torch.float64))


def test_sweeps_that_have_no_common_curve_are_refused() -> None:
    with pytest.raises(FlowError, match="at least one sample"):
        mean_relative_change([])
    with pytest.raises(FlowError, match="differ in their knockouts or layers"):
        mean_relative_change([swept(0.5, 0.1), swept(0.5, 0.1, 0.2)])
    with pytest.raises(FlowError, match="differ in their knockouts or layers"):
        mean_relative_change([swept(0.5, 0.1), swept(0.5, 0.1, source="system")])


def test_bins_that_do_not_fit_the_depth_are_refused() -> None:
    with pytest.raises(FlowError, match="32 layers in bins of 5 make 7 bins, not 6"):
        LayerBins((0.0,) * 6, 5, 32)
    for width in (0, -1):
        with pytest.raises(FlowError, match=f"at least one layer, not {width}"):
            LayerBins.of([0.0], width)
        with pytest.raises(FlowError, match=f"at least one layer, not {width}"):
            LayerBins((0.0,), width, 1)
