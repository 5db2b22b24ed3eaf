"""The settings of a trace: what they mean, and what is said where they mean nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lmms_flow.errors import FlowError
from lmms_flow.flow.trace_settings import (
    KINDS,
    MAP,
    PAPER_NAMES,
    TARGET_SETS,
    WORDS,
    TraceSettings,
    as_knockout,
)

read = TraceSettings.from_mapping


def test_by_default_all_is_read_with_the_papers_target_sets() -> None:
    settings = read(None)
    assert settings == read("all") == read({})
    assert settings.kinds == KINDS
    assert len(settings.knockouts) == 13  # the paper's eleven, and two more to the false options
    assert (settings.style, settings.layers) == ("center", "all")


@pytest.mark.parametrize(("depth", "window"), [(40, 9), (32, 9), (28, 9), (16, 4), (12, 3), (2, 1)])
def test_the_window_is_the_papers_and_a_like_share_of_a_shallower_model(depth: int, window: int) -> None:
    assert read("map").window_in(depth) == window
    assert read({"window": 5}).window_in(depth) == 5


def test_a_target_set_is_its_knockouts_under_either_name() -> None:
    """The paper's figures 2, 3, 7, 8, and the one that it plots without code."""
    sizes = {name: len(read({"knockouts": [name]}).knockouts) for name in TARGET_SETS}
    assert list(sizes.values()) == [1, 4, 3, 3, 3]
    for paper, ours in PAPER_NAMES.items():
        assert read({"knockouts": paper}).knockouts == read({"knockouts": [ours]}).knockouts
    assert set(PAPER_NAMES.values()) == set(TARGET_SETS)


def test_any_list_in_the_language_is_a_set_and_nothing_is_cut_twice() -> None:
    mixed = read({"knockouts": "video_to_true_option+video_to_false_options+tail:last+frame.2:question"})
    assert mixed.knockouts == (
        *("video:stem", "stem:true_option", "video:true_option"),
        *("stem:false_options", "video:false_options", "tail:last", "frame.2:question"),
    )
    assert [str(as_knockout(each)) for each in mixed.knockouts] == list(mixed.knockouts)


def test_its_text_is_its_meaning() -> None:
    written = {"kinds": ["attention", "map"], "knockouts": "cross_frame", "window": "5", "layers": -8}
    settings = read(written)
    assert TraceSettings.from_text(settings.to_text()) == settings
    assert json.loads(settings.to_text()) == {
        "kinds": ["map", "attention"],
        "knockouts": ["cross_frame"],
        "window": 5,
        "style": "center",
        "layers": "-8",
    }
    assert settings.centres(12) == tuple(range(1, 9))
    assert read({"kinds": "logit_lens", "window": 5}).to_text() == read("logit_lens").to_text()


def test_the_groups_that_a_prompt_must_have() -> None:
    assert read({"kinds": "map", "knockouts": "video:tail"}).groups == {"video", "tail"}
    assert read({"kinds": "map", "knockouts": "cross_frame"}).groups == {"video"}
    assert read("generation_probability").groups == {"options"}
    assert {"true_option", "false_options", "stem"} < read("map").groups


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("maps", "there is no kind of trace 'maps'; did you mean 'map'?"),
        (["map", "lens"], "did you mean 'logit_lens'?"),
        ({"windows": 5}, "has no setting 'windows'; did you mean 'window'?"),
        ({"window": 0}, "a whole number of layers from 1, or auto, not 0"),
        ({"window": True}, "or auto, not True"),
        ({"window": "9.5"}, "not '9.5'"),
        ({"style": "centre"}, "there is no style 'centre'; did you mean 'center'?"),
        ({"knockouts": "video_to_true_options"}, "did you mean 'video_to_true_option'?"),
        ({"knockouts": "vql-to-q1"}, "did you mean 'vql-to-ql'?"),
        ({"knockouts": ["video:qestion"]}, "there is no group 'qestion'; did you mean 'question'?"),
        ({"knockouts": ["question:video"]}, "source comes first: write video:question"),
        ({"knockouts": ["video:last@6-20"]}, "write video:last without '@'"),
        ({"knockouts": []}, "a list of names, or names joined by '\\+', not \\[\\]"),
        ({"knockouts": ["cross_frame", 3]}, "a list of names"),
        ({"layers": "20-6"}, "run backwards: write 6-20"),
        ({"layers": [1, 2]}, "a range such as 6-20, not \\[1, 2\\]"),
        (7, "a kind, a list of kinds, or settings by name, not 7"),
    ],
)
def test_a_mistake_is_one_line_with_the_near_word(written: Any, says: str) -> None:
    with pytest.raises(FlowError, match=says) as caught:
        read(written)
    assert "\n" not in str(caught.value)


def test_a_layer_that_the_model_has_not_is_named() -> None:
    with pytest.raises(FlowError, match="layer 13 does not exist, the model has layers 1-12"):
        read({"layers": "2-13"}).centres(12)


def test_arguments_say_what_a_task_leaves_unsaid_and_nothing_else() -> None:
    own = {"kinds": "map", "window": 5}
    settings = read(own)
    assert settings.with_arguments(own, {"style": "inverse", "window": "5"}, "task t") == read(
        own | {"style": "inverse"}
    )
    with pytest.raises(
        FlowError, match="task t says window 5 and --model_args trace_window=9: leave out one"
    ):
        settings.with_arguments(own, {"window": "9"}, "task t")


@pytest.mark.parametrize("window", ["abc", "-1", "0", "1.5", "٣", "1234567", True, "", None, [3]])
def test_a_window_is_a_number_of_layers_or_is_refused(window: object) -> None:
    if window is None:
        assert read({"window": window}).window is None
        return
    with pytest.raises(FlowError, match="whole number"):
        read({"window": window})


def test_the_text_of_settings_says_what_the_kinds_need() -> None:
    """It is part of the journal's key: what is missing there would be taken for another run's."""
    texts = {name: json.loads(read(name).to_text()) for name in (*KINDS, WORDS)}
    named = {name: set(values) - {"kinds"} for name, values in texts.items()}
    knockouts = {"knockouts", "window", "style", "layers"}
    assert named[MAP] == knockouts
    assert knockouts <= named[WORDS]
    assert all(not named[name] & knockouts for name in KINDS if name != MAP)
    for name in (MAP, WORDS):
        for changed in ({"window": 3}, {"style": "inverse"}, {"layers": "1-4"}, {"knockouts": "video:last"}):
            assert read({"kinds": name, **changed}).to_text() != read(name).to_text(), (name, changed)


@pytest.mark.parametrize("anchors", ["abc", "-1", "0", 0, "1.5", "٣", "1234567", True, "", [3]])
def test_anchors_are_a_whole_number_or_are_refused(anchors: object) -> None:
    with pytest.raises(FlowError, match="anchors are a whole number from 1, not"):
        read({"anchors": anchors})
    assert read({"anchors": "1"}).anchors == 1
    assert read({"anchors": 99999}).anchors == 99999
