"""The prompt's template and the tokenizer: byte-level BPE, so that any text has tokens."""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from scripts.flowbench.questions import LETTERS, NUM_STYLES, STEMS, spell, values

SYSTEM = "Watch the video and select the best option that answers the question."
BEFORE_VIDEO = f"{SYSTEM}\n USER: "
GAP = "\n USER: "
ASSISTANT = " ASSISTANT:"
TAIL = f" \nOnly give the best option.{ASSISTANT}"
ANSWER_PREFIX = "Best option:("
SPECIAL = ("<pad>", "<s>", "</s>", "<video>", "<image>")

CHAT_TEMPLATE = (
    """\
{%- set ns = namespace(system='"""
    + SYSTEM
    + """') -%}
{%- for message in messages if message['role'] == 'system' -%}
  {%- if message['content'] is string -%}
    {%- set ns.system = message['content'] -%}
  {%- else -%}
    {%- set ns.system = message['content'] | map(attribute='text') | join('') -%}
  {%- endif -%}
{%- endfor -%}
{{- ns.system ~ '\\n' -}}
{%- for message in messages if message['role'] != 'system' -%}
  {%- if message['role'] == 'user' -%}
    {%- if message['content'] is string -%}
      {{- ' USER: ' ~ message['content'] -}}
    {%- else -%}
      {%- for part in message['content'] -%}
        {%- if part['type'] == 'video' -%}{{- ' USER: <video>\\n' -}}
        {%- elif part['type'] == 'image' -%}{{- ' USER: <image>\\n' -}}
        {%- else -%}{{- ' USER: ' ~ part['text'] -}}
        {%- endif -%}
      {%- endfor -%}
    {%- endif -%}
  {%- else -%}
    {{- ' ASSISTANT:' -}}
    {%- if message['content'] is string -%}
      {{- message['content'] -}}
    {%- else -%}
      {{- message['content'] | map(attribute='text') | join('') -}}
    {%- endif -%}
    {%- if not (loop.last and continue_final_message is defined and continue_final_message) -%}
      {{- '</s>' -}}
    {%- endif -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- ' ASSISTANT:' -}}{%- endif -%}
"""
)


def corpus() -> Iterator[str]:
    """Every stem and every answer in every style, in whole prompts."""
    for topic, stems in STEMS.items():
        for stem in stems:
            for style in range(NUM_STYLES):
                answers = [spell(topic, value, style) for value in values(topic)]
                for start in range(0, len(answers), 4):
                    lines = [f"({a}) {b}" for a, b in zip(LETTERS, answers[start : start + 4], strict=False)]
                    question = "\n".join([f"Question: {stem}", "Options:", *lines])
                    yield BEFORE_VIDEO + GAP + question + TAIL + ANSWER_PREFIX
                    yield f"\n USER: The answer is: {answers[start]}\n"


def build_tokenizer(vocab_size: int = 640) -> PreTrainedTokenizerFast:
    """Trained on the corpus alone, so it is the same in every run."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    # Offsets keep the leading space: a token that is nothing but a space has a place of its own too.
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
            ),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        chat_template=CHAT_TEMPLATE,
    )
