"""The prompt of the paper's multiple-choice runs, for model families that differ in how they mark the roles."""

from __future__ import annotations

# MVBench's sentence; a system message of the task takes its place.
PAPER_SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question."
)


def paper_template(user: str, assistant: str, video: str) -> str:
    """A chat template: the system sentence, then each part of a user's message as a turn of its own.

    `user` and `assistant` stand before a turn, `video` is what the video's turn says.
    """
    user, assistant, video = (text.replace("\n", "\\n") for text in (user, assistant, video))
    return (
        "{%- set system = messages[0] if messages[0]['role'] == 'system' else none -%}"
        "{%- if system -%}"
        "{{ system['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join }}"
        "{%- else -%}" + PAPER_SYSTEM + "{%- endif -%}{{ '\\n' }}"
        "{%- for message in messages if message['role'] != 'system' -%}"
        "{%- if message['role'] == 'user' -%}"
        "{%- for part in message['content'] -%}"
        "{%- if part['type'] == 'video' -%}{{ '" + user + video + "' }}"
        "{%- elif part['text'] -%}{{ '" + user + "' + part['text'] }}{%- endif -%}"
        "{%- endfor -%}"
        "{%- else -%}"
        "{{ '" + assistant + "' + (message['content'] | map(attribute='text') | join) }}"
        "{%- endif -%}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '" + assistant + "' }}{%- endif -%}"
    )
