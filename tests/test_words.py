"""Words of the lens: the paper's lists, their counts by layer and bins, and where they stand on a frame."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from lmms_flow.flow import FlowError, Layout, prompt_layout
from lmms_flow.trace.words import (
    RELEASED_SPATIAL,
    RELEASED_TEMPORAL,
    SPATIAL,
    TEMPORAL,
    count_words,
    frame_names,
    layer_bins,
    word_frequencies,
    word_tokens,
    words_on_frame,
)
from tests.support.tokenized import KINDS, tokenizer

LAYOUT = prompt_layout(system=3, frames=2, tokens_per_frame=4, gap=1, question=6, tail=1)


@pytest.mark.smoke
def test_the_papers_lists() -> None:
    """Table D has 19 and 13 words; three of the code's are not among them, and a blanket is seen as "blank"."""
    assert (len(SPATIAL), len(TEMPORAL)) == (19, 13)
    assert set(RELEASED_SPATIAL) - set(SPATIAL) == {"blanket", "bottle", "dish"}
    assert set(SPATIAL) - set(RELEASED_SPATIAL) == {"blank"}
    assert set(RELEASED_TEMPORAL) - set(TEMPORAL) == {"do"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_counts_by_its_first_token_alone_and_behind_a_space(kind: str) -> None:
    made = tokenizer(kind)
    found = word_tokens(made, ["object", "Best", "on", "zebra"])
    for word, ids in found.items():
        pieces = {made.decode([token]).strip() for token in ids}
        assert len(pieces) == 1
        (piece,) = pieces
        assert word.startswith(piece)
        first = next(
            t for t in made(f" {word}", add_special_tokens=False)["input_ids"] if made.decode([t]).strip()
        )
        assert first in ids
        vocabulary = made.get_vocab()
        assert {vocabulary[form] for form in (piece, f"▁{piece}", f"Ġ{piece}") if form in vocabulary} <= set(
            ids
        )


def test_a_word_of_nothing_is_refused() -> None:
    with pytest.raises(FlowError, match="has no token"):
        word_tokens(tokenizer("llama"), [" "])


def test_counts_are_those_of_the_most_probable_tokens() -> None:
    tokens = torch.tensor(
        [[[5, 9], [6, 5], [7, 5]], [[9, 5], [5, 6], [5, 7]]]
    )  # [layer 2, video token 3, k 2]
    assert count_words(tokens, {"bag": (5,), "bed": (6, 7), "cup": (8,)}).tolist() == [[1, 2], [2, 0], [0, 0]]
    assert count_words(tokens, {}).shape == (0, 2)


def test_exact_bins_and_the_papers() -> None:
    """The released code's bins of five layers add up six, and neighbours share one."""
    assert layer_bins(12) == (range(1, 6), range(6, 11), range(11, 13))
    paper = layer_bins(12, bins="paper")
    assert paper == (range(1, 7), range(6, 12), range(11, 13))
    assert all(set(one) & set(other) == {other[0]} for one, other in pairwise(paper))
    with pytest.raises(FlowError, match="did you mean 'paper'"):
        layer_bins(12, bins="papre")  # type: ignore[arg-type]
    with pytest.raises(FlowError, match="at least one layer, not 0"):
        layer_bins(12, 0)


def test_each_words_shares_sum_to_one_and_rare_words_are_left_out() -> None:
    counts = torch.zeros(3, 12, dtype=torch.long)
    counts[0, :6] = torch.tensor([10, 0, 0, 0, 30, 60])  # layers 1, 5 and 6
    counts[1, 11] = 99
    counts[2, 11] = 300
    found = word_frequencies(counts, ["bag", "bed", "cup"])
    assert found.words == ("bag", "cup")
    torch.testing.assert_close(found.shares, torch.tensor([[0.4, 0.6, 0], [0, 0, 1]], dtype=torch.double))
    torch.testing.assert_close(found.mean, torch.tensor([0.2, 0.3, 0.5], dtype=torch.double))
    paper = word_frequencies(counts, ["bag", "bed", "cup"], bins="paper", at_least=1)
    assert paper.words == ("bag", "bed", "cup")
    torch.testing.assert_close(paper.shares[0], torch.tensor([100 / 160, 60 / 160, 0], dtype=torch.double))
    nothing = word_frequencies(torch.zeros(1, 12), ["bag"], at_least=0)
    assert nothing.words == ()
    assert not nothing.mean.any()
    some = word_frequencies(counts[:, [0, 5, 11]], ["bag", "bed", "cup"], at_least=1, layers=[1, 6, 12])
    torch.testing.assert_close(some.shares[0], torch.tensor([10 / 70, 60 / 70, 0], dtype=torch.double))
    with pytest.raises(FlowError, match="the lens read 3 layers, and 2 are named"):
        word_frequencies(counts[:, :3], ["bag", "bed", "cup"], layers=[1, 6])
    with pytest.raises(FlowError, match="counts of 3 words were given with 1 names"):
        word_frequencies(counts, ["bag"])


def test_a_frames_words_stand_where_its_patches_are() -> None:
    made = tokenizer("llama")
    ids = [made.convert_tokens_to_ids(f"▁{word}") for word in ("video", "the", "object", "of")]
    assert made.unk_token_id not in ids
    tokens = torch.zeros(2, 8, 1, dtype=torch.int32)
    tokens[1, 4:, 0] = torch.tensor(ids)
    grid = words_on_frame(made, tokens, LAYOUT, 1, 2)
    assert grid == [["video", "the"], ["object", "of"]]
    assert words_on_frame(made, tokens, LAYOUT, 1, 2, shape=(1, 4)) == [[*grid[0], *grid[1]]]
    assert words_on_frame(made, tokens, LAYOUT, 1, 2, shape=(3, 1), before=1) == [["the"], ["object"], ["of"]]
    assert words_on_frame(made, tokens, LAYOUT, 1, 12, layers=[4, 12]) == grid
    with pytest.raises(FlowError, match="layer 5 does not exist, the lens has layers 4, 12"):
        words_on_frame(made, tokens, LAYOUT, 1, 5, layers=[4, 12])
    for arguments, message in (
        ((2, 2), "this prompt has 2 frames"),
        ((1, 3), "layer 3 does not exist"),
    ):
        with pytest.raises(FlowError, match=message):
            words_on_frame(made, tokens, LAYOUT, *arguments)
    with pytest.raises(FlowError, match=r"3 tokens behind its first 1, which are no grid of 1 x 1"):
        words_on_frame(made, tokens, LAYOUT, 1, 2, before=1)
    with pytest.raises(FlowError, match=r"no grid of 2 x 3"):
        words_on_frame(made, tokens, LAYOUT, 1, 2, shape=(2, 3))


def test_merged_frames_are_named_as_what_they_are() -> None:
    assert frame_names(LAYOUT, 2) == ("frame 0", "frame 1")
    assert frame_names(LAYOUT, 4) == ("frames 0-1", "frames 2-3")
    assert frame_names(LAYOUT, 3) == ("frames 0-1", "frame 2")  # a last one that is merged with itself
    for count in (1, 0):
        with pytest.raises(FlowError, match=f"{count} frames can't be those of a layout with 2"):
            frame_names(LAYOUT, count)
    with pytest.raises(FlowError, match="a layout with 0"):
        frame_names(Layout(1, {"last": range(1)}), 2)
