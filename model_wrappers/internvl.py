"""`internvl_flow`: the InternVL kin. The paper's checkpoint, its image-only base, and native `internvl` checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig

from lmms_flow.errors import CheckpointError
from lmms_flow.inputs.chat import Messages, VideoChat
from lmms_flow.inputs.image_chat import ImageChat, clip_image_processor, own_template
from lmms_flow.inputs.paper_prompt import paper_template
from lmms_flow.inputs.tokenizer import load_tokenizer

from .base import FlowModel
from .conversion.internvl import image_size, load_original, tokens_per_frame

IMAGE_TOKEN = "<IMG_CONTEXT>"
IMAGE = f"<img>{IMAGE_TOKEN}</img>"  # what frames stand in: the marks are no part of the video
TURN_END = "<|end|>"  # of Phi-3
PAPER_TEMPLATE = paper_template(user=" <|user|>\n", assistant=" <|assistant|>\n", video=f"{IMAGE}\n")
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


class InternvlFlow(FlowModel):
    """Mini-InternVL-4B-Video-FT (the default, the paper's), its image-only base, and InternVL3-*-hf."""

    default_checkpoint = "byminji/Mini-InternVL-4B-Video-FT"
    model_types = ("internvl_chat", "internvl")

    def load(self, source: str) -> VideoChat:
        """The model and its chat, from the native form or converted from the original one."""
        values, _ = PreTrainedConfig.get_config_dict(source, revision=self.args.revision)
        kind = values.get("model_type")
        if kind == "internvl":
            return super().load(source)
        if kind == "internvl_chat":
            return InternvlChat(source, values, self.hub_arguments, self.loading_arguments)
        raise CheckpointError(
            f"this is a {kind!r} checkpoint; internvl_flow runs internvl_chat and internvl checkpoints"
        )


class InternvlChat(ImageChat):
    """InternVL's original form: one picture of 448 x 448 pixels and 256 tokens for each frame.

    `values` is the checkpoint's config.json; `hub` and `loading` are what `from_pretrained` takes for the tokenizer's
    files and for the model. The prompt is the paper's where the language model is Phi-3 and the checkpoint has no
    template that knows images, else the checkpoint's own.
    """

    def __init__(
        self, source: str, values: dict[str, Any], hub: dict[str, Any], loading: dict[str, Any]
    ) -> None:
        tokenizer = load_tokenizer(source, hub, by_files=True)
        vocabulary = tokenizer.get_vocab()
        if IMAGE_TOKEN not in vocabulary:
            raise CheckpointError(f"the checkpoint's tokenizer has no token {IMAGE_TOKEN}")
        model = load_original(source, values, vocabulary[IMAGE_TOKEN], loading)
        own = own_template(source, tokenizer, hub["revision"])
        is_phi = model.config.text_config.model_type == "phi3"
        template = own if own and ("image" in own or not is_phi) else PAPER_TEMPLATE if is_phi else None
        if template is None:
            raise CheckpointError(
                "the checkpoint ships no chat template, and the paper's prompt is for Phi-3 alone"
            )
        _stop_at(model, [tokenizer.eos_token_id, vocabulary.get(TURN_END) if is_phi else None])
        super().__init__(
            model,
            tokenizer,
            video_token=IMAGE_TOKEN,
            image_processor=clip_image_processor(source, image_size(values), hub["revision"], **IMAGENET),
            tokens_per_frame=tokens_per_frame(values),
            template=template,
            knows_video=template is PAPER_TEMPLATE,
        )

    def render(self, messages: Messages) -> str:
        """The prompt as text, with one placeholder for the whole video."""
        if not self.knows_video and "image" not in self.template:
            return self.apply_template(self.tokenizer, _as_text(messages), self.template)
        text = super().render(messages)
        return text if self.knows_video else text.replace("<image>", IMAGE)


def _as_text(messages: Messages) -> list[dict[str, str]]:
    """For templates of language models: what InternVL's own code writes into a message for a picture."""

    def text(part: Any) -> str:
        return f"{IMAGE}\n" if part.get("type") == "video" else str(part.get("text", ""))

    return [
        {"role": message["role"], "content": "".join(map(text, message["content"]))} for message in messages
    ]


def _stop_at(model: Any, tokens: Sequence[int | None]) -> None:
    """An answer ends with the turn, which fine-tuned checkpoints don't always say."""
    ends = model.generation_config.eos_token_id
    known = ends if isinstance(ends, list) else [ends]
    named = [token for token in dict.fromkeys([*known, *tokens]) if token is not None]
    model.generation_config.eos_token_id = named
