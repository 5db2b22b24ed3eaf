"""Options of a question: by their marks, by the document's own fields, and never by a guess."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lmms_flow.errors import SampleError
from lmms_flow.flow import Flow
from lmms_flow.inputs.groups import find_groups
from lmms_flow.inputs.options import find_options, option_words, true_letter
from lmms_flow.tasks.questions import FORMS as FORMS_OF_OURS
from lmms_flow.tasks.questions import doc_to_text
from tests.support.tokenized import KINDS, decoded, encode, prompt_of

FORMS = ["({}) {}", "{}. {}", "{}: {}", "{}) {}"]
# The lists and what follows them, as tasks write them.
ENDINGS = [" \nOnly give the best option.", "\nAnswer with the option letter only.", "\n", "", "\n\nAnswer:"]
WORDS = st.sampled_from(
    [
        "left",
        "Right.",
        "the red cup",
        "A",
        "(B)",
        "B. Jones",
        "none",
        "2",
        "up,",
        "Is it?",
        "Options:",
        "é 左",
    ]
)
LINES = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)
SEVERAL_LINES = st.lists(LINES, min_size=1, max_size=3).map("\n".join)


def texts(text: str, doc: dict[str, Any] | None = None) -> list[str]:
    return [text[option.words : option.stop] for option in find_options(text, doc)]


def listed(form: str, options: list[str], between: str = "\n") -> str:
    return between.join(form.format(*pair) for pair in zip("ABCDEFGHIJ", options, strict=False))


# By marks


@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if ending.strip()])
@pytest.mark.parametrize("form", FORMS)
def test_the_last_option_may_have_several_lines_too(form: str, ending: str) -> None:
    options = ["he sits\nand stands up", "he runs\nand jumps"]
    assert texts("What does he do?\n" + listed(form, options) + ending) == options


@pytest.mark.parametrize("form", FORMS)
def test_where_an_option_of_several_lines_ends_is_not_guessed(form: str) -> None:
    text = "What does he do?\n" + listed(form, ["he sits\nand stands up", "he runs"]) + "\nand more of this"
    assert texts(text) == []
    assert texts(text, {"candidates": ["he sits\nand stands up", "he runs"]})[1] == "he runs"


def test_several_options_on_one_line() -> None:
    assert texts("What?\n(A) left (B) right  (C) up") == ["left", "right", "up"]
    assert texts("What?\n(A) left (B) right\n(C) up (D) down") == ["left", "right", "up", "down"]
    assert texts("What?\n(A) left (B) right\nAnswer with (A) or (B).") == ["left", "right"]
    assert texts("What?\n(A) left\n(B) right (C) up") == []  # is (C) an option?
    assert texts("What?\n(A) take (B) off\n(B) put it on") == ["take (B) off", "put it on"]


# By the document's own fields


@pytest.mark.parametrize("between", ["\n", " ", ", ", "\n\n"])
@pytest.mark.parametrize("form", FORMS)
def test_known_words_are_found_on_any_lines(form: str, between: str) -> None:
    options = ["left", "B. Jones\nwalks", "left"]
    text = f"Is it left or B. Jones? {listed(form, options, between)} Answer now."
    assert texts(text, {"candidates": options}) == options


def test_fields_of_the_benchmarks() -> None:
    assert option_words({"candidates": ["up", "down"]}) == ("up", "down")  # TVBench, MVBench, our own tasks
    assert option_words({"options": ["A. up", "B. A. Smith"]}) == ("up", "A. Smith")  # Video-MME
    assert option_words({"options": ["up", "down"]}) == ("up", "down")  # TOMATO
    numbered = {"option0": "up", "option1": "down", "option2": "N/A", "option3": "N/A", "option4": "N/A"}
    assert option_words(numbered) == ("up", "down")  # LongVideoBench
    assert option_words({"candidates": [2, 3]}) == ("2", "3")
    for unknown in ({}, {"candidates": ["one"]}, {"options": "up, down"}, {"options": [{"a": 1}, {"b": 2}]}):
        assert option_words(unknown) == ()


def test_options_as_python_prints_a_dictionary() -> None:
    """lmms-eval's TOMATO."""
    words = ["it's up", 'a "b"', "down"]
    doc = {"options": words, "answer": 1}
    text = f"<options>\n{dict(zip('ABC', words, strict=True))}\n</options>\nGuess."
    options = find_options(text, doc)
    assert [text[option.start : option.stop] for option in options] == [
        "'A': \"it's up\"",
        "'B': 'a \"b\"'",
        "'C': 'down'",
    ]
    assert true_letter(text, options, doc) == "B"


def test_what_the_text_shows_otherwise_than_the_document_is_not_trusted() -> None:
    doc = {"candidates": ["up", "down"], "answer": "up", "answer_letter": "A"}
    swapped = "What?\n(A) down\n(B) up"
    assert true_letter(swapped, find_options(swapped, doc), {**doc, "answer_letter": None}) == "B"
    assert true_letter(swapped, find_options(swapped, doc), {**doc, "answer": 0}) is None
    longer = "What?\n(A) run\n(B) walking"
    doc_of_longer = {"candidates": ["run", "walk"], "answer_letter": "B"}
    assert true_letter(longer, find_options(longer, doc_of_longer), doc_of_longer) is None
    assert find_options("In the USA. left\nB. right", {"candidates": ["left", "right"]}) == ()
    fewer = "What?\n(A) up\n(B) down"
    assert find_options(fewer, {"candidates": ["up", "down", "left"]}) == ()
    twice = "What?\n(A) up\n(B) down\nOr:\n(A) up\n(B) down"
    assert find_options(twice, doc) == ()


def test_a_letter_by_its_field_is_a_letter() -> None:
    text = "Which letter?\n(A) B\n(B) A"
    assert true_letter(text, find_options(text), {"answer_letter": "A"}) == "A"


# Any words at all


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(FORMS),
    st.lists(SEVERAL_LINES, min_size=2, max_size=5),
    SEVERAL_LINES,
    st.sampled_from(["\n", " "]),
    st.sampled_from(ENDINGS),
)
def test_known_words_are_found_whatever_stands_around_them(
    form: str, options: list[str], stem: str, between: str, ending: str
) -> None:
    shown = listed(form, options, between)
    text = f"Question: {stem}\nOptions:\n{shown}{ending}"
    assume(text.count(shown) == 1)
    found = find_options(text, {"candidates": options})
    assert [text[option.words : option.stop] for option in found] == options
    assert text[found[0].start : found[-1].stop] == shown


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(FORMS),
    st.lists(st.sampled_from(["left", "the red cup", "it's A", "2 or 3", "é 左"]), min_size=2, max_size=5),
    LINES,
    st.sampled_from(ENDINGS),
)
def test_marks_alone_give_plain_options(form: str, options: list[str], stem: str, ending: str) -> None:
    text = f"{stem}\n{listed(form, options)}{ending}"
    assert texts(text) == options


# Down to tokens

CASES: list[tuple[str, dict[str, Any]]] = [
    (
        "Question: Which cup, the red cup?\nOptions:\n{}",
        {"candidates": ["the red cup", "the blue cup", "the red cup"], "answer_letter": "C"},
    ),
    ("Is it (A) or not?\n{}", {"candidates": ["left", "left turn", "A. Smith"], "answer_letter": "B"}),
    ("What?\n{}", {"candidates": ["he sits\nand stands", "he runs\nand jumps"], "answer_letter": "B"}),
    ("Watch closely.\nWhere is it?\n{}", {"candidates": ["左", "right"], "answer_letter": "A"}),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("frame", "doc"), CASES)
def test_tokens_of_the_options_read_as_the_options(
    frame: str, doc: dict[str, Any], ending: str, form: str, kind: str
) -> None:
    user_text = frame.format(listed(form, doc["candidates"])) + ending
    prompt = encode(prompt_of(user_text), kind)
    groups = find_groups(prompt, user_text, doc, Flow.load("true_option:last+false_options:last+stem:last"))
    shown = dict(zip("ABC", doc["candidates"], strict=False))
    right = doc["answer_letter"]
    false = [form.format(letter, words) for letter, words in shown.items() if letter != right]
    assert [t.strip() for t in decoded(prompt, groups, "true_option", kind)] == [
        form.format(right, shown[right])
    ]
    pieces = [text.strip() for text in decoded(prompt, groups, "false_options", kind)]
    assert "\n".join(pieces) == "\n".join(false)  # neighbours are one span
    assert groups.letters == tuple(shown)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stem_is_the_documents_question_where_it_stands_once(kind: str) -> None:
    user_text = (
        "Look at the frames.\nWhere does it go?\nOption:\n(A) left\n(B) right\nOnly give the best option."
    )
    prompt = encode(prompt_of(user_text), kind)
    for question, stem in (
        ("Where does it go?", "Where does it go?"),
        ("Where did it go?", "Look at the frames.\nWhere does it go?"),
        ("e", "Look at the frames.\nWhere does it go?"),
    ):
        groups = find_groups(prompt, user_text, {"question": question}, Flow.load("stem:last"))
        assert [text.strip() for text in decoded(prompt, groups, "stem", kind)] == [stem]


def test_an_ambiguous_list_is_an_error_where_it_is_named_and_only_there() -> None:
    user_text = "What?\n(A) up\n(B) down\nOr:\n(A) up\n(B) down"
    doc = {"candidates": ["up", "down"], "answer_letter": "A"}
    prompt = encode(prompt_of(user_text))
    with pytest.raises(SampleError, match="no options were recognised"):
        find_groups(prompt, user_text, doc, Flow.load("true_option:last"))
    assert find_groups(prompt, user_text, doc, Flow.load("video:question")).rule == "user text to its end"


# The prompts of the five benchmarks, as lmms-eval's own tasks write them and as ours do

QUESTION = {"question": "Which cup moves, (A) or the red cup?"}
WORDED = ["the red cup", "it's A. Smith's", "the red cup, then it stops"]
LETTERED = [f"{letter}. {words}" for letter, words in zip("ABC", WORDED, strict=True)]
NUMBERED = {f"option{place}": (*WORDED, "N/A", "N/A")[place] for place in range(5)}
STOCK: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "tvbench": ({"candidates": WORDED, "answer": WORDED[1]}, {}, "{}. {}"),
    "mvbench": (
        {"candidates": WORDED, "answer": WORDED[1]},
        {"post_prompt": "Only give the best option.\n"},
        "({}) {}",
    ),
    "tomato": ({"options": WORDED, "answer": 1}, {}, "{!r}: {!r}"),
    "videomme": (
        {"options": LETTERED, "answer": "B"},
        {"post_prompt": "\nAnswer with the option's letter from the given choices directly."},
        "{}. {}",
    ),
    "longvideobench": (
        {**NUMBERED, "correct_choice": 1},
        {
            "pre_prompt": "",
            "post_prompt": "Answer with the option's letter from the given choices directly.\n",
        },
        "{}. {}",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("benchmark", STOCK)
def test_parts_of_the_stock_prompts(benchmark: str, kind: str) -> None:
    fields, given, form = STOCK[benchmark]
    doc = QUESTION | fields
    try:
        utils = importlib.import_module(f"lmms_eval.tasks.{benchmark}.utils")
    except ModuleNotFoundError as error:  # LongVideoBench's needs decord
        pytest.skip(f"lmms-eval's own task does not load here: {error}")
    check_parts(getattr(utils, f"{benchmark}_doc_to_text")(doc, given), doc, form, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS_OF_OURS)
def test_parts_of_our_prompts(form: str, kind: str) -> None:
    doc: Any = QUESTION | {"candidates": WORDED, "answer_letter": "B"}
    check_parts(doc_to_text(doc, {"form": form}), doc, FORMS_OF_OURS[form].option, kind)


def check_parts(user_text: str, doc: dict[str, Any], form: str, kind: str) -> None:
    prompt = encode(prompt_of(user_text), kind)
    groups = find_groups(prompt, user_text, doc, Flow.load("true_option:last+false_options:last+stem:last"))
    options = [form.format(letter, words) for letter, words in zip("ABC", WORDED, strict=True)]

    def read(
        name: str,
    ) -> list[str]:  # a token that ends behind the option's last quote takes the comma with it
        return [text.strip().rstrip(",") for text in decoded(prompt, groups, name, kind)]

    assert read("stem") == [doc["question"]]
    assert read("true_option") == [options[1]]
    assert read("false_options") == [options[0], options[2]]
    assert "".join(decoded(prompt, groups, "question", kind)).strip().endswith(options[2])


@pytest.mark.parametrize(
    ("doc", "words"),
    [
        ({"candidates": ["left", "right"]}, ("left", "right")),
        ({"candidates": ["left"]}, ()),  # one is no choice
        ({"candidates": ["left"], "options": ["up", "down"]}, ("up", "down")),
        ({"candidates": "left", "choices": ["up", "down"]}, ("up", "down")),
        ({"candidates": [1, 2.5]}, ("1", "2.5")),
        ({"candidates": [["left"], ["right"]]}, ()),
        ({"options": ["A. left", "B. right"]}, ("left", "right")),
        ({"options": ["(A) left", "(B) right"]}, ("left", "right")),
        ({"options": ["A. left", "right"]}, ("A. left", "right")),
        ({"options": ["left", ""]}, ()),
        ({"option0": "left", "option1": "right", "option2": "N/A"}, ("left", "right")),
        ({"option0": "left", "option1": "N/A"}, ()),
        ({}, ()),
    ],
)
def test_the_options_of_a_document(doc: dict[str, Any], words: tuple[str, ...]) -> None:
    assert option_words(doc) == words


def test_a_list_that_goes_on_behind_a_gap_is_none() -> None:
    assert texts("Which?\n(A) left\n(B) right\nAnswer.") == ["left", "right"]
    assert texts("Which?\nA. left\nB. right (C) and so on\nAnswer.") == ["left", "right (C) and so on"]
