"""What a notebook shows, and what it may write: HTML of results, groups of one's own, knockouts and lists as flows."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import lmms_flow
import lmms_flow.flow
import lmms_flow.report
from lmms_flow.engine import Knockout, intervene, keep_masks, sweep
from lmms_flow.errors import FlowError
from lmms_flow.flow import Flow, Layout, Rule
from lmms_flow.flow.layout import prompt_layout
from lmms_flow.report.compare import compare
from lmms_flow.show.drawing import draw_flow
from tests.support.lmms_logs import write_log
from tests.support.models import text_prompt, tiny

PLAIN = prompt_layout(system=2, frames=2, tokens_per_frame=3, gap=1, question=6, tail=1)
MOST = 200_000  # bytes of HTML that a notebook may keep of one result


class Reader(HTMLParser):
    """What is in a piece of HTML; anything that runs or is fetched would be here."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name in ("src", "onload") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> Reader:
    assert len(html.encode()) < MOST
    reader = Reader()
    reader.feed(html)
    assert not {"script", "iframe", "img"} & set(reader.tags)
    return reader


def test_the_public_names_are_listed() -> None:
    assert dir(lmms_flow) == sorted(lmms_flow.__all__)
    assert "Flow" in dir(lmms_flow)
    assert "load" in dir(lmms_flow)
    assert "samples_df" in dir(lmms_flow.report)
    assert dir(lmms_flow.flow) == sorted(lmms_flow.flow.__all__)


def test_a_flow_is_a_strip_of_its_layers() -> None:
    shown = read(Flow.load("effective-llava-next-7b")._repr_html_())
    assert "effective-llava-next-7b, 32 layers" in shown.text
    assert "cross_frame" in shown.text
    html = Flow.load("video:last@3-5").bind(8)._repr_html_()
    assert re.findall(r'title="layer (\d): cut"', html) == ["3", "4", "5"]
    assert len(re.findall("title=", html)) == 8
    assert "drawn for a model of 32 layers" in Flow.load("video:last")._repr_html_()
    assert "video:last@40" in Flow.load("video:last@40")._repr_html_(), "a layer that 32 layers have not"
    assert "nothing is cut" in Flow.load("none")._repr_html_()


def test_a_layout_is_a_bar_of_its_groups_and_where_they_are() -> None:
    layout = Layout(6, {"video": range(3), "question": range(3, 5), "last": range(5, 6), "subject": [1, 4]})
    shown = read(layout._repr_html_())
    assert "prompt of 6 tokens" in shown.text
    assert "subject21-1, 4-4" in shown.text


def test_a_comparison_shows_its_tables_and_is_named_in_a_line(tmp_path: Path) -> None:
    for number in range(13):
        write_log(tmp_path / str(number), "none" if not number else f"random:0.5:seed{number}", [True] * 200)
    write_log(tmp_path / "b", "blind", [False] * 200)
    comparison = compare([tmp_path], flips=True)
    assert repr(comparison) == "Comparison(t (14 arms); 3 tables)"
    shown = read(comparison._repr_html_())
    assert "blind (no video)" in shown.text
    assert "more rows" in shown.text
    axes = comparison.plot()
    assert len(axes.get_yticklabels()) == 14
    assert comparison.plot(axes) is axes


@pytest.fixture(scope="module")
def small() -> tuple[torch.nn.Module, Layout, dict[str, torch.Tensor]]:
    """A decoder of random weights, and a prompt with a group of one's own in its question."""
    layout = PLAIN.with_groups(subject=[PLAIN.groups["question"][0].start])
    return tiny("llama", attn_implementation="sdpa", layers=3)[0], layout, text_prompt(layout)


def test_a_sweep_draws_its_curves(small: tuple[torch.nn.Module, Layout, dict[str, torch.Tensor]]) -> None:
    model, layout, inputs = small
    result = sweep(model, inputs, layout, ["video:question", "subject:last"], window=1)
    assert read(result._repr_html_()).tags[:2] == ["div", "svg"]
    axes = result.plot()
    lines = [line.get_label() for line in axes.get_lines() if not line.get_label().startswith("_")]
    assert lines == ["video:question", "subject:last"]
    assert result.plot(axes) is axes
    assert repr(result).startswith("SweepResult(video:question, subject:last; ")


def test_a_group_of_ones_own_cuts_its_tokens_alone(
    small: tuple[torch.nn.Module, Layout, dict[str, torch.Tensor]],
) -> None:
    _, layout, _ = small
    (token,) = (token for span in layout.groups["subject"] for token in span)
    cut = (
        ~keep_masks("subject:last@2", layout, 3)
        & torch.ones(layout.num_tokens, layout.num_tokens).tril().bool()
    )
    assert [tuple(map(int, place)) for place in cut.nonzero()] == [(1, layout.num_tokens - 1, token)]
    assert layout.own == ("subject",)
    with pytest.raises(FlowError, match="no group 'subject'"):
        keep_masks("subject:last", PLAIN, 3)
    with pytest.raises(FlowError, match="no token of 'subject' ever reads 'last'"):
        keep_masks("last:subject", layout, 3)


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ({"vidoe": [1]}, None),
        ({"Subject": [1]}, "a group of your own has small letters"),
        ({"subject": [99]}, "a group of your own is a list of token positions from 0 to 5"),
        ({"subject": "ab"}, "a group of your own is a list of token positions"),
        ({"subject": []}, "must lie within the prompt's 6 tokens"),
        ({"subject": range(4, 9)}, "must lie within the prompt's 6 tokens"),
    ],
)
def test_what_a_group_of_ones_own_may_be(groups: dict[str, list[int]], says: str | None) -> None:
    def make() -> Layout:
        return Layout(6, {"question": range(5), "last": range(5, 6), **groups})

    if says is None:
        assert make().own == ("vidoe",)
    else:
        with pytest.raises(FlowError, match=re.escape(says)):
            make()


@pytest.mark.parametrize(
    "given",
    [
        "video:question@2+video:last@2",
        Flow.load("video:question@2+video:last@2"),
        ["video:question@2", "video:last@2"],
        ["video:question@2", Flow.load("video:last@2")],
    ],
    ids=["text", "flow", "texts", "mixed"],
)
@torch.no_grad()
def test_a_flow_may_be_a_text_a_knockout_or_a_list(
    given: object, small: tuple[torch.nn.Module, Layout, dict[str, torch.Tensor]]
) -> None:
    model, layout, inputs = small
    with intervene(model, "video:question@2+video:last@2", layout):
        wanted = model(**inputs).logits[0, -1]
    with intervene(model, given, layout):  # type: ignore[arg-type]
        assert torch.equal(model(**inputs).logits[0, -1], wanted)


@torch.no_grad()
def test_knockouts_cut_in_all_layers(small: tuple[torch.nn.Module, Layout, dict[str, torch.Tensor]]) -> None:
    model, layout, _ = small
    both = keep_masks([Knockout("video", "last"), Rule(Knockout("cross_frame"))], layout, 3)
    assert torch.equal(both, keep_masks("video:last+cross_frame", layout, 3))
    for wrong in (7, [], [7]):
        with pytest.raises(FlowError, match="not"), intervene(model, wrong, layout):  # type: ignore[arg-type]
            pass
    with (
        pytest.raises(FlowError, match="must stand alone"),
        intervene(model, ["blind", "video:last"], layout),
    ):
        pass


def test_a_block_inside_a_block_says_under_which_flow_the_model_is(
    small: tuple[torch.nn.Module, Layout, dict[str, torch.Tensor]],
) -> None:
    model, layout, inputs = small
    with intervene(model, "video:last", layout):
        with (
            pytest.warns(
                UserWarning, match="already under the flow 'video:last': the cuts of both are joined"
            ),
            intervene(model, "video:question", layout),
        ):
            pass
        with pytest.raises(FlowError, match="already under the flow 'video:last': a sweep can't be run"):
            sweep(model, inputs, layout, ["video:question"])


def test_a_flow_is_drawn_into_a_figure(tmp_path: Path) -> None:
    figure = draw_flow(Flow.load("video:last@2"), PLAIN, 4)
    assert figure.get_suptitle().startswith("video:last@2")
    draw_flow(Flow.load("video:last@2"), PLAIN, 4, tmp_path / "new" / "f.svg")
    assert (tmp_path / "new" / "f.svg").read_text().startswith("<?xml")
    axes = Flow.load("video:last@2").bind(4).plot()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["video:last"]
