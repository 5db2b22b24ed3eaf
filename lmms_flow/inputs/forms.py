"""How a multiple-choice question is put to a model: the paper's forms, word for word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Form:
    """How a question is put to a model: what stands around its own words."""

    option: str  # frames a letter and the option's words
    ending: str  # follows the last option
    answer: str  # begins the answer, so that the next token is the letter; empty: the model begins it itself
    label: str = "Options:\n"  # stands before the first option
    stripped: bool = False  # whether white space behind the last option is left out


_DIRECTLY = "\nAnswer with the option's letter from the given choices directly"
# The paper's, word for word. A task's YAML picks one for each model by `lmms_eval_specific_kwargs`.
FORMS = {
    "paper": Form("({}) {}", " \nOnly give the best option.", "Best option:(", stripped=True),
    # Of Video-MME: the last option keeps its line break, which belongs to the question (CLOSING_BREAK).
    "paper_dotted": Form("{}. {}", "\n \nOnly give the best option.", "Best option:"),
    "videollama3": Form("({}) {}", f"{_DIRECTLY} and only give the best option.", ""),
    "videollama3_dotted": Form("{}. {}", f"{_DIRECTLY}.", "", label=""),
}
CLOSING_BREAK = FORMS["paper_dotted"].ending


def question_text(form: Form, question: str, options: Sequence[str], *, marked: bool = False) -> str:
    """The text of the user's turn; an open question, without options, is put as it is.

    Args:
        form: how a question is put.
        question: its words.
        options: the words of each.
        marked: whether the options have their letters already.
    """
    if not options:
        return f"Question: {question}"
    lines = options if marked else [form.option.format(*pair) for pair in zip(LETTERS, options, strict=False)]
    asked = f"Question: {question}\n{form.label}" + "\n".join(lines)
    return (asked.rstrip() if form.stripped else asked) + form.ending
