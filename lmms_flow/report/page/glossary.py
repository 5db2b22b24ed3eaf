"""What the page's words mean, for who has not read the docs: kinds of edges, arms, and the columns of its tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...flow.controls import BLIND, MIRRORED, NONE, RANDOM, SHAM
from ..arms import Arm
from ..table import Table

Words = tuple[tuple[str, str], ...]  # each with its meaning

# The groups of the prompt's tokens, as they stand in a sentence.
GROUPS: Mapping[str, str] = {
    "system": "the text before the video",
    "video": "the video",
    "gap": "the text between the video and the question",
    "question": "the question with its options",
    "stem": "the question without its options",
    "options": "the options",
    "true_option": "the true option",
    "false_options": "the false options",
    "tail": "the text after the question",
    "last": "the prompt's last token",
    "answer": "the answer so far",
    "text": "all text after the video",
}
MORE: Mapping[str, str] = {
    "true_option": "the option that is right",
    "false_options": "the options that are wrong",
    "last": "the prompt's last token, whose state gives the answer",
}
PLAIN = ("video", "options")  # groups that are what they are called
CROSS_FRAME, INTRA_FRAME = "cross_frame", "intra_frame"
PROTOCOL = "asked in the way of the paper: the answer is the first token that the model would write"


def way_of(rule: str) -> str:
    """Which way information takes along a kind of edge: `from the video to the question with its options`."""
    if rule == CROSS_FRAME:
        return "from frame to frame"
    source, _, reader = rule.partition(":")
    return f"from {GROUPS[source]} to {GROUPS[reader]}" if {source, reader} <= GROUPS.keys() else ""


def cut_of(rule: str) -> str:
    """What a knockout takes away: `the question with its options reads nothing of the video`."""
    if rule == CROSS_FRAME:
        return "no frame reads an earlier one"
    source, _, reader = rule.partition(":")
    if not {source, reader} <= GROUPS.keys():
        return ""
    if source == reader:
        return f"{GROUPS[reader]} does not read itself"
    verb = "read" if reader.endswith("options") else "reads"
    return f"{GROUPS[reader]} {verb} nothing of {GROUPS[source]}"


def words_of_edges(rules: Iterable[str], protocol: str = "") -> Words:
    """The names of these kinds of edges, and of the groups of tokens in them."""
    known = list(dict.fromkeys(rules))
    found: list[tuple[str, str]] = []
    pairs = [rule for rule in known if way_of(rule) and rule != CROSS_FRAME]
    example = "video:question" if "video:question" in pairs else next(iter(pairs), None)
    if example:
        source, _, reader = example.partition(":")
        found.append((example, f"source:reader, what {GROUPS[reader]} can read of {GROUPS[source]}"))
    if CROSS_FRAME in known:
        found.append((CROSS_FRAME, "what a frame can read of earlier frames"))
    if INTRA_FRAME in known:
        found.append((INTRA_FRAME, "what a frame's tokens can read of one another"))
    groups = {group for rule in known if way_of(rule) for group in rule.split(":")}
    for group, meaning in GROUPS.items():
        if group in groups and group not in PLAIN:
            found.append((group, MORE.get(group, meaning)))
    if protocol == "paper":
        found.append(("paper protocol", PROTOCOL))
    return tuple(found)


def words_of_arms(arms: Sequence[Arm]) -> Words:
    """What the arms' names mean, of those that are there."""
    return tuple(_words_of_arms(arms))


def _words_of_arms(arms: Sequence[Arm]) -> Iterator[tuple[str, str]]:
    flows = [arm.flow for arm in arms]
    if NONE.name in flows:
        others = any(not arm.is_of_the_whole_clip for arm in arms)
        shown = "; in brackets which frames are shown, where it is not the clip as it was filmed"
        yield NONE.name, f"full attention{shown if others else ''}"
    if SHAM.name in flows:
        yield (
            SHAM.name,
            "cuts nothing but runs the same masked kernels, so it shows what rounding alone changes",
        )
    if any(flow.startswith("effective") for flow in flows):
        yield (
            "effective",
            "keeps a pathway: frames read earlier frames, the question reads the video and the last token reads the "
            "question, each in a range of layers and not in the others",
        )
    if any(flow.startswith("effective") and flow.endswith("closed") for flow in flows):
        yield (
            "closed",
            "keeps the same pathway, and text around the question can't pass the video on to the last token either",
        )
    if any(map(RANDOM.begins, flows)):
        yield RANDOM.name, "cuts edges drawn anywhere, as many as a pathway cuts or a share that is named"
    if any(map(MIRRORED.begins, flows)):
        yield MIRRORED.name, "has the pathway in the wrong layers: they are counted from the last one"
    if any(map(BLIND.begins, flows)):
        yield BLIND.name, "lets no text read the video"
    if any("@" in flow for flow in flows):
        yield "@", "names the layers in which edges are cut; in the others they stay"


# The columns of the tables. What is not here says itself what it is.

COLUMNS: Mapping[str, str] = {
    "arm": "the benchmark run under one flow",
    "n": "questions that were answered",
    "accuracy": "right answers of all answers; in brackets the 95 % interval",
    "macro": "the mean of the accuracies of the tasks, so that each task counts the same",
    "Δ baseline": "accuracy less the baseline's on the questions that both answered, in points",
    "Δ": "accuracy less the baseline's on the questions that both answered, in points",
    "Δ of its right": "the same on those questions alone that the baseline answers right, in points: a fall from 100 %",
    "Δ of all arms": "the same change with wider intervals, which hold for all arms of a model together",
    "p (McNemar)": "the chance of changes as one-sided as these, if the cut made answers neither better nor worse",
    "p (sign flips)": "the same chance where questions share videos: whole videos change their sign",
    "p (Holm)": "this p, raised since several arms were tested",
    "p (max-T)": "a p of all arms together that takes into account how much they agree",
    "within": "yes: two one-sided tests (TOST) show that the change is smaller than this many points; not shown: "
    "they do not, which is no proof of a change",
    "shows from": "the smallest change, in points, that this run would have found with a chance of 80 %",
    "edges kept": "share of all attention edges that were not cut, over all layers",
    "prefill FLOPs": "arithmetic to read one prompt, in the mean; in brackets its share of full attention's",
    "seconds + video": "time of the model for all questions, and of reading and encoding their videos",
    "errors": "questions that ended in an error; they are in no accuracy",
    "skipped": "questions that were not asked, for a reason that is given; they are in no accuracy",
    "videos": "how many videos the questions are about: questions about one video are no independent samples",
    "baseline": "the arm that this one is compared with",
    "common": "questions that both answered",
    "lost": "questions that the baseline answers right and this arm wrong",
    "won": "questions that the baseline answers wrong and this arm right",
    "flips": "questions with another answer than the baseline's",
    "sham's flips": "the same under sham, which cuts nothing: what rounding alone turns",
    "temporal share": "accuracy of full attention less that with frames in a random order, in points",
    "pairs": "pairs of clips about which the same was asked",
    "both right": "pairs of which both clips are answered right; who answers both alike gets none",
    "Δ both right": "this share less the baseline's, in points",
    "pairs show from": "the smallest change of this share, in points, that would have been found with a chance of 80 %",
    "turned": "of clips that full attention answers otherwise than their pair's other: those that are answered, in "
    "this order of frames, as the pair's other is",
    # Runs
    "limit": "how many questions of each task were asked",
    "logs": "how many files of samples lmms-eval wrote: one a task",
    # Maps
    "edges": "the kind of edge that is cut, source:reader",
    "edges cut": "the kind of edge that is cut, source:reader",
    "kept in layers": "the range of layers in which the paper's rule keeps these edges",
    "strongest at layer": "the centre of the window in which the cut changes the answer's probability most",
    "change there": "relative change of the answer's probability: −50 % is half of what it was",
    # Failures
    "baseline wrong": "questions that full attention answers wrong and this arm answered too",
    "repaired": "those of them that this arm answers right",
    "share": "the share that is repaired",
    "wrong otherwise": "those that this arm answers with another wrong option",
    "right, now lost": "questions that full attention answers right and this arm wrong",
    "case 1: falls": "wrong answers whose probability falls under the cut: the cut edges spoke for them",
    "case 2: rises": "wrong answers whose probability rises under the cut: the cut edges spoke against them",
    "change (points)": "change of the wrong answer's probability, in percentage points, in the mean",
    "mean change": "relative change of the wrong answer's probability, over all windows and wrong answers",
    "repaired in any window": "wrong answers that are right under at least one window of layers",
    "best at layer": "the centre of the window that repairs most",
    "repaired there (%)": "the share of the wrong answers that this window repairs",
    # The ledger
    "engine": "sparse computes only what a flow leaves; dense runs the model as it is, under a mask",
    "seconds": "time of the model for all questions",
    "ms a question": "time of the model for one question, in milliseconds",
    "video, ms a question": "time to read and encode the video of one question, once for all arms",
    # Claims
    "predicted (points)": "the change of the accuracy that the paper's claim predicts",
    "verdict": "whether the whole 95 % interval of what was found lies where the claim says",
    "found": "change of the accuracy that this run found, in points",
}


FEW = 2


def meaning_of(head: str) -> str:
    """What a column holds, by its head; empty where that is plain, as for the name of a task."""
    bare = re.sub(r" \[95 %\]$", "", head)
    if bare.startswith("within ±"):
        bare = "within"
    return COLUMNS.get(bare, "")


def words_of_columns(table: Table) -> Words:
    """The columns of a table that need a word; none where there are hardly any."""
    found = tuple((column.head, said) for column in table.columns if (said := meaning_of(column.head)))
    return found if len(found) > FEW else ()
