"""The page is kept small: what has no room in it is left out to a stated number, cards first and then figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from .cards import Deck
from .parts import Section

LARGEST = 3_000_000  # bytes of a page
_SAID = 1_000  # bytes in which the page says what it left out

Render = Callable[[Deck, Sequence[Section], int], str]  # cards, sections, number of figures left out


def fitted(render: Render, deck: Deck, sections: Sequence[Section], largest: int = LARGEST) -> str:
    """The page with as many cards, and else as many figures, as it has room for.

    Args:
        render: makes the page.
        deck: of which the last cards go first; those that were asked for by name stand at its beginning.
        sections: of which the last figures go first. The files beside the page have them all.
        largest: bytes of the page.
    """
    text = render(deck, sections, 0)
    if _size(text) <= largest:
        return text
    deck = _fewer_cards(deck, _size(text) - largest + _SAID)
    text = render(deck, sections, 0)
    if _size(text) <= largest:
        return text
    sections, left_out = _fewer_figures(sections, _size(text) - largest + _SAID)
    return render(deck, sections, left_out)


def _size(text: str) -> int:
    return len(text.encode())


def _fewer_cards(deck: Deck, over: int) -> Deck:
    cards = list(deck.cards)
    while cards and over > 0:
        over -= _size(cards.pop())
    return replace(deck, cards=tuple(cards), left_out=deck.left_out + len(deck.cards) - len(cards))


def _fewer_figures(sections: Sequence[Section], over: int) -> tuple[list[Section], int]:
    """The sections with fewer figures, and how many were left out."""
    made: list[Section] = []
    left_out = 0
    for section in reversed(sections):
        blocks = []
        for block in reversed(section.blocks):
            pictures = list(block.pictures)
            while pictures and over > 0:
                over -= _size(pictures.pop().inline())
                left_out += 1
            blocks.append(replace(block, pictures=tuple(pictures)))
        made.append(replace(section, blocks=tuple(reversed(blocks))))
    return made[::-1], left_out
