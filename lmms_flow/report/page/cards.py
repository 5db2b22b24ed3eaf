"""Question cards: the frames that were read, the question, and each option's probability under every arm.

A card for each question that some arm answers otherwise than its baseline, and for those that are named. A card is at
most 12 kB, and all of them together are small enough for the page: with many cards frames become smaller, then they are
left out, then only the arms that flipped are listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tqdm import tqdm

from ...errors import ReportError, nearest
from ..arms import ScoredSample
from ..board import Board
from ..table import one_line
from .failures import letter_of
from .frames import NoFramesError, rows_of
from .parts import FrameRow
from .pictures import slug

LARGEST = 12_000  # bytes of a card
SMALLEST = 2_500  # bytes that a card may have, however many there are; what does not fit then is left out
ALL = 1_500_000  # bytes of all cards: with figures and tables a page stays under 3 MB
MOST_ARMS = 16
QUESTION = 900  # characters
BASELINE = "baseline"


@dataclass(frozen=True)
class Answer:
    """What one arm said. `kind` is "lost", "won", "other", "same", or "baseline"."""

    arm: str
    answer: str
    kind: str
    correct: bool | None
    probabilities: tuple[float | None, ...]  # of the card's letters
    reason: str = ""  # why there is no answer


@dataclass(frozen=True)
class Card:
    """One question."""

    name: str
    id: str
    task: str
    doc_id: int
    question: str
    target: str
    letters: tuple[str, ...]
    answers: tuple[Answer, ...]
    frames: FrameRow | None = None
    note: str = ""
    kinds: tuple[str, ...] = field(default=())  # those of its flips, with the number of the arm: "lost 3"

    @property
    def change(self) -> float:
        """The largest change of the baseline answer's probability under an arm, as a share; 0 where it is not known."""
        before = next((one for one in self.answers if one.kind == BASELINE), None)
        if before is None or before.answer not in self.letters:
            return 0.0
        place = self.letters.index(before.answer)
        known = [one.probabilities[place] for one in self.answers]
        first = before.probabilities[place]
        if first is None:
            return 0.0
        return max((abs(value - first) for value in known if value is not None), default=0.0)


@dataclass(frozen=True)
class Deck:
    """The cards of a page as they are rendered, and how many questions have none for want of room."""

    cards: tuple[str, ...]
    arms: tuple[str, ...]
    left_out: int


def deal(
    boards: Sequence[Board], named: Iterable[str], render: Callable[[Card], str], *, with_frames: bool = True
) -> Deck:
    """Makes the cards. Raises ReportError for a named question that there is not."""
    arms = tuple(dict.fromkeys(entry.name for board in boards for entry in board.entries))
    wanted = list(named)
    found: list[tuple[Card, ScoredSample]] = [
        pair for board in boards for pair in _cards(board, wanted, arms)
    ]
    _check_named(boards, wanted)
    found.sort(key=lambda pair: not _is_named(pair[0], wanted))  # they have room in any case
    room = min(LARGEST, max(SMALLEST, ALL // max(1, len(found))))
    cards: list[str] = []
    spent = 0
    for card, sample in tqdm(found, desc="question cards", unit="card", delay=2, leave=False):
        if spent + SMALLEST > ALL:
            break
        shown = _ever_smaller(card, sample, render, with_frames)
        text = next((text for text in shown if _size(text) <= room), "")
        if text:
            cards.append(text)
            spent += _size(text)
    return Deck(tuple(cards), arms, len(found) - len(cards))


def _is_named(card: Card, named: Sequence[str]) -> bool:
    return card.id in named or f"{card.task}/{card.doc_id}" in named


def _size(text: str) -> int:
    return len(text.encode())


def _ever_smaller(
    card: Card, sample: ScoredSample, render: Callable[[Card], str], with_frames: bool
) -> Iterator[str]:
    """The card as it is rendered, with less and less."""
    note = ""
    if with_frames:
        try:
            for frames in rows_of(sample):
                yield render(replace(card, frames=frames))
            note = "no room for its frames"
        except NoFramesError as error:
            note = one_line(str(error), 160)
    bare = replace(card, note=note)
    yield render(bare)
    flipped = tuple(one for one in card.answers if one.kind != "same")
    yield render(replace(bare, answers=flipped, question=one_line(card.question, 200), note=""))
    yield render(replace(bare, answers=flipped[:4], question=one_line(card.question, 80), note=""))


def _cards(board: Board, named: Sequence[str], arms: Sequence[str]) -> Iterator[tuple[Card, ScoredSample]]:
    """The cards of a board, those of one checkpoint and question each."""
    for checkpoint in board.checkpoints:
        entries = [entry for entry in board.entries if entry.arm.checkpoint == checkpoint]
        flips: dict[tuple[str, int], dict[str, str]] = {}
        for entry in entries:
            for flip in entry.flips:
                flips.setdefault((flip.after.task, flip.after.doc_id), {})[entry.name] = flip.kind
        places = {place for entry in entries for place in entry.arm.samples}
        for place in sorted(places):
            given = {entry.name: entry.arm.samples[place] for entry in entries if place in entry.arm.samples}
            some = next(iter(given.values()))
            if place in flips or some.id in named or f"{place[0]}/{place[1]}" in named:
                baselines = {
                    entry.name for entry in entries if entry.arm.is_baseline and entry.baseline is None
                }
                yield _card(checkpoint, given, flips.get(place, {}), baselines, arms), _with_frames(given)


def _with_frames(given: Mapping[str, ScoredSample]) -> ScoredSample:
    """The sample that knows most frames: a single frame is an arm of its own."""
    return max(given.values(), key=lambda sample: len(sample.frames) if sample.video else -1)


def _card(
    checkpoint: str,
    given: Mapping[str, ScoredSample],
    flips: Mapping[str, str],
    baselines: set[str],
    arms: Sequence[str],
) -> Card:
    sample = next((one for one in given.values() if one.question), next(iter(given.values())))
    letters = tuple(sorted({letter for one in given.values() for letter in one.options}))
    ordered = sorted(given.items(), key=lambda item: (item[0] not in baselines, item[0] not in flips))
    answers = tuple(_answer(name, one, flips, baselines, letters) for name, one in ordered[:MOST_ARMS])
    return Card(
        name=slug(checkpoint, sample.task, sample.doc_id),
        id=sample.id or str(sample.doc_id),
        task=sample.task,
        doc_id=sample.doc_id,
        question=sample.question
        if len(sample.question) <= QUESTION
        else sample.question[: QUESTION - 1] + "…",
        target=one_line(sample.target, 80),
        letters=letters,
        answers=answers,
        kinds=tuple(f"{kind} {arms.index(name)}" for name, kind in flips.items()),
    )


def _answer(
    name: str, sample: ScoredSample, flips: Mapping[str, str], baselines: set[str], letters: Sequence[str]
) -> Answer:
    kind = BASELINE if name in baselines else flips.get(name, "same")
    said = letter_of(sample) or one_line(sample.answer, 60)
    probabilities = tuple(sample.options.get(letter) for letter in letters)
    reason = "" if sample.correct is not None else one_line(f"{sample.status}: {sample.reason}", 80)
    return Answer(name, said, kind, sample.correct, probabilities, reason)


def _check_named(boards: Sequence[Board], named: Sequence[str]) -> None:
    samples = [one for board in boards for entry in board.entries for one in entry.arm.samples.values()]
    known = {one.id for one in samples if one.id} | {f"{one.task}/{one.doc_id}" for one in samples}
    for name in named:
        if name not in known:
            raise ReportError(
                f"--question {name}: no question of these runs has this id{nearest(name, sorted(known))}"
            )
