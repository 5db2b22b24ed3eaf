"""The groups of a flow in a real prompt: each token where its first character stands, and never a guess."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from lmms_flow.errors import SampleError
from lmms_flow.flow import Flow
from lmms_flow.inputs.groups import EncodedPrompt, PromptGroups, find_groups
from lmms_flow.inputs.options import find_options, stem_end, true_letter
from lmms_flow.model_wrappers.llava_vid import PAPER_TEMPLATE
from tests.support.tokenized import (
    KINDS,
    PAPER_PROMPT,
    PAPER_TEXT,
    SYSTEM,
    VIDEO,
    decoded,
    encode,
    prompt_of,
    tokenizer,
)

ANY = Flow.load("video:question")


def groups_of(
    user_text: str, kind: str = "llama", flow: Flow = ANY, **doc: Any
) -> tuple[EncodedPrompt, PromptGroups]:
    prompt = encode(prompt_of(user_text), kind)
    return prompt, find_groups(prompt, user_text, doc, flow)


# The paper's prompt


def test_the_papers_template_character_for_character() -> None:
    messages = [
        {
            "role": "user",
            "content": [{"type": "video", "url": "clip.mp4"}, {"type": "text", "text": PAPER_TEXT}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "Best option:("}]},
    ]
    chat = tokenizer("llama")
    rendered = chat.apply_chat_template(
        messages, chat_template=PAPER_TEMPLATE, tokenize=False, continue_final_message=True
    )
    assert rendered == PAPER_PROMPT
    without = chat.apply_chat_template(
        messages[:1], chat_template=PAPER_TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    assert without == PAPER_PROMPT.removesuffix("Best option:(")
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    with_own = chat.apply_chat_template(
        [system, *messages], chat_template=PAPER_TEMPLATE, tokenize=False, continue_final_message=True
    )
    assert with_own == PAPER_PROMPT.replace(SYSTEM, "Be brief.")


@pytest.mark.smoke
def test_the_groups_of_the_papers_prompt() -> None:
    prompt = encode(PAPER_PROMPT)
    groups = find_groups(prompt, PAPER_TEXT, {"answer": "From left to right."}, Flow.load("true_option:last"))
    layout = groups.layout
    texts = {name: "".join(decoded(prompt, groups, name)) for name in ("gap", "question", "tail", "last")}
    assert texts["gap"].lstrip(" ") == "\n USER:"  # Llama puts a space behind the video's last token
    assert texts["question"].lstrip() == PAPER_TEXT[: PAPER_TEXT.index(" \nOnly")]
    assert texts["tail"] == " \nOnly give the best option. ASSISTANT:Best option"
    assert texts["last"] == ":("
    assert layout.size("last") == 1
    assert layout.span("video") == (prompt.video,)
    assert layout.frames == prompt.frames
    assert [t.strip() for t in decoded(prompt, groups, "stem")] == [
        "What is the direction of the moving object?"
    ]
    assert decoded(prompt, groups, "true_option")[0].strip() == "(A) From left to right."
    assert decoded(prompt, groups, "false_options")[0].strip() == "(B) From right to left."
    assert groups.rule == "label to last option"
    assert groups.letters == ("A", "B")


# Every token where its first character stands

USER_TEXTS = [
    PAPER_TEXT,
    "Question: Which?\nOptions:\n(A) up\n(B) down\n(C) none of them",
    "Where does it go?\nA. Left\nB. Right\nAnswer with the option letter only.",
    "Where?\nA: Left\nB: Right",
    "Where?\nA) Left\nB) Right\nC) Up\nD) Down\n",
    "Question: Is it 左 or 右? 🎬🎬\nOptions:\n(A) 左 ⬅️\n(B) 右 ➡️\nAnswer.",
    "🎬 What is this?\n(A) é\n(B) ñ",
    "  What happens next in this video?  ",
    "Question:What?\n\nOptions:\n\n(A) a\n\n(B) b\n\nAnswer:",
    "Question: the red square, (A) or not?\nOptions:\n(A) the red square\n(B) the red square",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("user_text", USER_TEXTS)
def test_every_token_lies_in_the_group_in_which_it_starts(user_text: str, kind: str) -> None:
    prompt, groups = groups_of(user_text, kind)
    text, layout = prompt.text, groups.layout
    begin = text.index(user_text.strip(), text.index(VIDEO))
    options = find_options(user_text.strip())
    end = begin + (options[-1].stop if options else len(user_text.strip()))
    for token in range(prompt.video.stop, layout.num_tokens - 1):
        start, stop = prompt.offsets[token]
        word = start + len(text[start:stop]) - len(text[start:stop].lstrip())
        if not text[start:stop].strip():  # white space alone
            word = start
        expected = "gap" if word < begin else "question" if word < end else "tail"
        assert layout.group_of(token) == expected, (token, text[start:stop])
    assert layout.group_of(layout.num_tokens - 1) == "last"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("user_text", USER_TEXTS)
def test_the_question_reads_from_its_beginning_to_its_last_option(user_text: str, kind: str) -> None:
    """By the offsets of its tokens, and by decoding them."""
    prompt, groups = groups_of(user_text, kind)
    (span,) = groups.layout.span("question")
    text = prompt.text[prompt.offsets[span.start][0] : prompt.offsets[span.stop - 1][1]].strip()
    stripped = user_text.strip()
    options = find_options(stripped)
    wanted = stripped[: options[-1].stop] if options else stripped
    assert text == wanted
    assert "".join(decoded(prompt, groups, "question", kind)).strip() == wanted
    stem = "".join(decoded(prompt, groups, "stem", kind)).strip()
    assert not stem.startswith("Question:")
    assert not stem.endswith("Options:")


@pytest.mark.parametrize("kind", KINDS)
def test_groups_cover_the_prompt_without_overlap(kind: str) -> None:
    prompt, groups = groups_of(PAPER_TEXT, kind)
    spans = [groups.layout.span(name) for name in ("system", "video", "gap", "question", "tail", "last")]
    tokens = list(itertools.chain.from_iterable(r for span in spans for r in span))
    assert tokens == list(range(len(prompt.input_ids)))


# Options


@pytest.mark.parametrize("form", ["({}) {}", "{}. {}", "{}: {}", "{}) {}"])
def test_forms_of_options(form: str) -> None:
    text = "What?\n" + "\n".join(form.format(*pair) for pair in zip("ABC", ("up", "down", "up"), strict=True))
    options = find_options(text)
    assert [(o.letter, text[o.words : o.stop]) for o in options] == [("A", "up"), ("B", "down"), ("C", "up")]
    assert [text[o.start : o.stop] for o in options] == text.split("\n")[1:]


def test_an_option_goes_on_over_lines_until_the_next() -> None:
    text = "What?\n(A) first he sits\nand then he stands\n(B) he runs\nAnswer with the letter."
    assert [text[o.words : o.stop] for o in find_options(text)] == [
        "first he sits\nand then he stands",
        "he runs",
    ]


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        (
            "A. Smith walks in.\nWho is it?\nA. Smith\nB. Jones",
            "AB",
        ),  # a line of the stem looks like an option
        ("Read:\nA. x\nB. y\nNow choose.\n(A) first\n(B) second\n(C) third", "ABC"),  # the last list counts
        ("What?\nA. only one", ""),
        ("What?\nB. no A\nC. before it", ""),
        ("What?\n(A) left (B) right", "AB"),
        ("Is it (A) left (B) right", ""),  # behind other words: not for sure
        ("Who?\nA. Smith met B. Jones", ""),
        ("What?\nA. left\nC. right", ""),
        ("What?\nA. left\n(B) right", ""),
        ("It says A. Or B.", ""),
        ("What?\n(A) a\n(B) b\n(C)c\n(D) d", "ABCD"),  # a mark in brackets needs no space
        ("What?\n(A)a\n(B)b", "AB"),
        ("What?\nA. a\nB. b\nC.c\nD. d", ""),  # cut short to A and B it would be a guess
        ("What?\n(A) a\n(B) b\n(C) \n(D) d", ""),
        ("What?\n(A) a\n(B) b\nC. c", ""),
        ("What?\n(A) a\n(B) b\nC) c", ""),
        ("What?\n(A) a\n(B) b\n(D) d", ""),  # a gap
        ("What?\n(A) a\n(B) b\n(C)", ""),
        ("Read:\nA. x\nB. y\n(A) first\n(B)\n(C) third", ""),
        ("What?\nA. a\nB. b\nC. c\nP.S. Answer with the letter.", "ABC"),
        ("What?\nA. a\nB. b\nC. c\nAnswer: ", "ABC"),
        ("What?\n(A) a\n(B) b\nA: ", "AB"),
        ("", ""),
    ],
)
def test_what_is_a_list_of_options_and_what_is_not(text: str, letters: str) -> None:
    assert "".join(option.letter for option in find_options(text)) == letters


def test_windows_newlines() -> None:
    text = "What?\r\nOptions:\r\n(A) up\r\n(B) down\r\nOnly give the best option."
    options = find_options(text)
    assert [text[o.words : o.stop] for o in options] == ["up", "down"]
    assert text[: stem_end(text, options)] == "What?"


def test_options_with_the_same_words_and_words_of_the_stem_are_told_apart() -> None:
    text = "Question: Is it the red cup or the red cup?\nOptions:\n(A) the red cup\n(B) the red cup"
    flow = Flow.load("true_option:last+false_options:last")
    prompt, groups = groups_of(text, flow=flow, answer_letter="B")
    (true,), (false,) = groups.layout.span("true_option"), groups.layout.span("false_options")
    assert decoded(prompt, groups, "true_option")[0].strip() == "(B) the red cup"
    assert false.stop <= true.start
    assert true.stop == groups.layout.span("question")[0].stop


@pytest.mark.parametrize(
    ("doc", "letter"),
    [
        ({"answer": "B"}, "B"),
        ({"answer": "(B)"}, "B"),
        ({"answer": "B."}, "B"),
        ({"answer": "down"}, "B"),
        ({"answer": 1}, "B"),
        ({"correct_choice": 0}, "A"),
        ({"answer": "down", "answer_letter": "B"}, "B"),
        ({"answer": "down", "answer_letter": "A"}, None),  # they disagree
        ({"answer": "sideways"}, None),
        ({"answer": 7}, None),
        ({"answer": True}, None),
        ({"answer": ["down", "B"]}, None),  # a list of accepted answers
        ({"answer": {"text": "down"}}, None),
        ({}, None),
    ],
)
def test_the_true_option_by_the_documents_own_fields(doc: dict[str, Any], letter: str | None) -> None:
    text = "What?\n(A) up\n(B) down"
    assert true_letter(text, find_options(text), doc) == letter


def test_a_letter_that_is_also_anothers_words_is_not_clear() -> None:
    text = "Which letter?\n(A) B\n(B) A"
    assert true_letter(text, find_options(text), {"answer": "A"}) is None


# What can't be found is an error, one clear line


@pytest.mark.parametrize(
    ("user_text", "flow", "doc", "message"),
    [
        ("", "video:question", {}, "the question is empty"),
        ("Question: ", "video:question", {}, "the question is empty"),
        ("What happens?", "options:last", {}, "no options were recognised"),
        ("What happens?", "true_option:last", {"answer": "A"}, "no options were recognised"),
        ("What?\n(A) up\n(B) down", "true_option:last", {}, "the document does not say which option is true"),
        (
            "What?\n(A) up\n(B) up",
            "false_options:last",
            {"answer": "up"},
            "the document does not say which option is true",
        ),
    ],
)
def test_what_a_flow_names_must_be_there(
    user_text: str, flow: str, doc: dict[str, Any], message: str
) -> None:
    with pytest.raises(SampleError, match=message) as failed:
        groups_of(user_text, flow=Flow.load(flow), **doc)
    assert "\n" not in str(failed.value)


def test_a_flow_needs_only_the_groups_that_it_names() -> None:
    _, groups = groups_of("What?\n(A) up\n(B) up", flow=Flow.load("options:last"), answer="up")
    assert "true_option" not in groups.layout.groups
    _, groups = groups_of("What happens?", flow=Flow.load("stem:last"))
    assert groups.rule == "user text to its end"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Watch.\n USER: Where is it?\n USER: <image>\n ASSISTANT:", "before the video"),
        ("Watch. <image> USER: Where is it? Where is it? ASSISTANT:", "twice"),
        ("Watch. <image> USER: Where  is it? ASSISTANT:", "not in the prompt as the task wrote it"),
    ],
)
def test_a_question_that_is_not_there_once_behind_the_video(text: str, message: str) -> None:
    with pytest.raises(SampleError, match=message) as failed:
        find_groups(encode(text), "Where is it?", {}, ANY)
    assert "\n" not in str(failed.value)


def test_text_in_front_of_the_video_does_not_count() -> None:
    prompt = encode("Where is it? USER: <image> USER: Where is it? ASSISTANT:")
    groups = find_groups(prompt, "Where is it?", {}, ANY)
    assert decoded(prompt, groups, "question")[0].strip() == "Where is it?"


def test_a_prompt_without_a_video() -> None:
    prompt = EncodedPrompt("What?", (1, 2), ((0, 4), (4, 5)), range(0), ())
    with pytest.raises(SampleError, match="no video"):
        find_groups(prompt, "What?", {}, ANY)


def test_a_question_that_is_the_last_token_alone() -> None:
    with pytest.raises(SampleError, match="empty"):
        find_groups(encode("Watch. <image>?"), "?", {}, ANY)


def test_a_question_without_a_label_begins_with_its_first_word() -> None:
    text = "Where does it go?\n(A) left\n(B) right"
    prompt, groups = groups_of(text, flow=Flow.load("stem:last"), answer="left")
    assert "".join(decoded(prompt, groups, "stem")).strip() == "Where does it go?"
    labelled, its = groups_of(f"Question: {text}", flow=Flow.load("stem:last"), answer="left")
    assert "".join(decoded(labelled, its, "stem")).strip() == "Where does it go?"
    assert "".join(decoded(labelled, its, "question")).strip().startswith("Question:")


def test_the_question_is_named_where_it_can_not_be_found() -> None:
    text = "Where does the ball with the very long and winding name of a ball go after the break of the day?"
    for wrong, where in ((text, "not in the prompt as the task wrote it"), ("are", "there twice")):
        prompt = encode(prompt_of(f"{'you are where we are' if wrong == 'are' else 'else'}"))
        with pytest.raises(SampleError) as caught:
            find_groups(prompt, wrong, {}, ANY)
        assert where in caught.value.reason
        assert f"({wrong[:60]!r})" in caught.value.reason
    with pytest.raises(SampleError, match="the question is empty"):
        find_groups(encode(prompt_of("  ")), "  ", {}, ANY)
    with pytest.raises(SampleError, match="the question is empty"):
        find_groups(encode(prompt_of("Question: ")), "Question: ", {}, ANY)


@pytest.mark.parametrize("text", ["Who?", "?!", "7", "Where?"])
def test_a_question_may_be_shorter_than_its_label(text: str) -> None:
    prompt, groups = groups_of(text)
    assert "".join(decoded(prompt, groups, "question")).strip() == text
    assert groups.rule == "user text to its end"


def test_words_before_the_label_are_no_question() -> None:
    """And the stem begins behind the label."""
    text = "Watch it again. Question: Where does it go?\n(A) left\n(B) right"
    prompt, groups = groups_of(text, flow=Flow.load("stem:last"))
    assert "".join(decoded(prompt, groups, "gap")).endswith("Watch it again.")
    assert "".join(decoded(prompt, groups, "question")).strip() == text[text.index("Question") :]
    assert "".join(decoded(prompt, groups, "stem")).strip() == "Where does it go?"


def test_the_stem_of_a_question_without_label_and_options_is_all_of_it() -> None:
    prompt, groups = groups_of("Where does it go?", flow=Flow.load("stem:last"))
    assert "".join(decoded(prompt, groups, "stem")).strip() == "Where does it go?"
