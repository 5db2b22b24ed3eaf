"""What the tiny checkpoints of video families are made of (tests/support/native.py)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import transformers as t

from tests.support.checkpoints import CHAT_TEMPLATE as LLAVA_TEMPLATE
from tests.support.checkpoints_internvl import MARKS, NATIVE_TEMPLATE
from tests.support.native import Ids, Native

PATCH, SIDE = (
    14,
    56,
)  # of a patch and of a frame, in pixels: 4 x 4 patches, 2 x 2 tokens where they are merged
TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": PATCH,
}
TILED = VISION | {"image_size": SIDE}
FIXED = {"height": SIDE, "width": SIDE}
AREA = {"shortest_edge": 2 * 2 * 28 * 28, "longest_edge": 12 * 28 * 28}  # of a frame's pixels
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}

# Templates, in the form of the published ones


def _qwen_template(default_system: bool) -> str:
    system = (
        "{% if loop.first and message['role'] != 'system' %}"
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    )
    return (
        "{% for message in messages %}"
        + (system if default_system else "")
        + "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for content in message['content'] %}"
        "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
        "{% elif content['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
        "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


ONEVISION_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}"
    "{% endfor %}{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GLM_TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% elif content['type'] == 'video' %}<|begin_of_video|><|video|><|end_of_video|>"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
PERCEPTION_TEMPLATE = (
    "{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}<|image|>{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}<|video|>{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
SMOL_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% for content in message['content'] %}{% if content['type'] == 'text' %}{{ content['text'] }}"
    "{% elif content['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
QWEN_MARKS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
GLM_MARKS = (
    *("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|system|>", "<|image|>", "<|video|>"),
    *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
)


# Text and vision


def _text(kind: str, layers: int, vocabulary: int, **extra: Any) -> Any:
    return getattr(t, f"{kind}Config")(**TEXT | extra, num_hidden_layers=layers, vocab_size=vocabulary)


def _clip() -> Any:
    return t.CLIPVisionConfig(**TILED | {"num_hidden_layers": 3}, projection_dim=32)


def _ids(ids: Ids, **names: str) -> dict[str, int]:
    return {f"{name}_id": ids(token) for name, token in names.items()}


def _tokens_by_name(native: str) -> dict[str, str]:
    return {"image_token": f"<|image{native}|>", "video_token": f"<|video{native}|>"}


# Plain


def _llava_next_video(layers: int, ids: Ids, vocabulary: int) -> Any:
    return t.LlavaNextVideoConfig(
        vision_config=_clip(),
        text_config=_text("Llama", layers, vocabulary, num_key_value_heads=4),
        image_token_index=ids("<image>"),
        video_token_index=ids("<video>"),
        image_grid_pinpoints=[[SIDE, 2 * SIDE]],
    )


def _video_llava(layers: int, ids: Ids, vocabulary: int) -> Any:
    return t.VideoLlavaConfig(
        vision_config=_clip(),
        text_config=_text("Llama", layers, vocabulary, num_key_value_heads=4),
        image_token_index=ids("<image>"),
        video_token_index=ids("<video>"),
        image_seq_length=16,
        video_seq_length=17 * 8,
    )


def _llava_onevision(layers: int, ids: Ids, vocabulary: int) -> Any:
    return t.LlavaOnevisionConfig(
        vision_config=t.SiglipVisionConfig(**TILED, vision_use_head=False),
        text_config=_text("Qwen2", layers, vocabulary),
        image_token_index=ids("<image>"),
        video_token_index=ids("<video>"),
        image_grid_pinpoints=[[SIDE, 2 * SIDE]],
    )


def _internvl(layers: int, ids: Ids, vocabulary: int, text: str = "Qwen2") -> Any:
    return t.InternVLConfig(
        vision_config=t.InternVLVisionConfig(**TILED),
        text_config=_text(text, layers, vocabulary, **({"head_dim": 16} if text == "Qwen3" else {})),
        image_token_id=ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )


def _perception(layers: int, ids: Ids, vocabulary: int) -> Any:
    return t.PerceptionLMConfig(
        vision_config=t.TimmWrapperConfig(
            architecture="vit_pe_core_large_patch14_336",
            model_args={
                "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, "global_pool": "",
                "use_post_transformer_norm": False, "img_size": [SIDE, SIDE], "init_values": 0.1,
                "ref_feat_shape": [4, 4], "patch_size": PATCH, "class_token": True,
            },
        ),
        text_config=_text("Llama", layers, vocabulary),
        projector_pooling_ratio=2,
        vision_use_cls_token=True,
        image_token_id=ids("<|image|>"),
        video_token_id=ids("<|video|>"),
    )  # fmt: skip


# Grids, positions in three dimensions


def _qwen_vision(**extra: Any) -> dict[str, Any]:
    return {
        "depth": 2, "num_heads": 2, "patch_size": PATCH, "temporal_patch_size": 2, "hidden_size": 32,
        "out_hidden_size": 64, "intermediate_size": 64, "spatial_merge_size": 2, **extra,
    }  # fmt: skip


def _qwen(
    kind: str, vision: dict[str, Any], *, text_of: str = "", rope: dict[str, Any] | None = None, **text: Any
) -> Any:
    def config(layers: int, ids: Ids, vocabulary: int) -> Any:
        turned = {**MROPE, **(rope or {})}
        made = _text(f"{text_of or kind}Text", layers, vocabulary, rope_parameters=turned, **text)
        return getattr(t, f"{kind}Config")(
            text_config=made.to_dict(),
            vision_config=dict(vision),
            **_ids(
                ids,
                image_token="<|image_pad|>",
                video_token="<|video_pad|>",
                vision_start_token="<|vision_start|>",
                vision_end_token="<|vision_end|>",
            ),
        )

    return config


def _glm(kind: str) -> Any:
    def config(layers: int, ids: Ids, vocabulary: int) -> Any:
        vision = _qwen_vision(image_size=SIDE)
        rope = dict(MROPE, mrope_section=[2, 3, 3], partial_rotary_factor=1.0)
        text_kind = "Glm4vText"
        text = _text(text_kind, layers, vocabulary, rope_parameters=rope)
        return getattr(t, f"{kind}Config")(
            text_config=text.to_dict(),
            vision_config=vision if kind == "Glm4v" else vision | {"model_type": "glm4v_vision"},
            **_ids(
                ids,
                image_token="<|image|>",
                video_token="<|video|>",
                image_start_token="<|begin_of_image|>",
                image_end_token="<|end_of_image|>",
                video_start_token="<|begin_of_video|>",
                video_end_token="<|end_of_video|>",
            ),
        )

    return config


# Times in the text


def _smolvlm(layers: int, ids: Ids, vocabulary: int) -> Any:
    return t.SmolVLMConfig(
        vision_config=t.SmolVLMVisionConfig(**TILED),
        text_config=_text("Llama", layers, vocabulary),
        image_token_id=ids("<image>"),
        scale_factor=2,
    )


def _video_llama_3(layers: int, ids: Ids, vocabulary: int) -> Any:
    return t.VideoLlama3Config(
        text_config=_text("Qwen2", layers, vocabulary),
        vision_config=t.VideoLlama3VisionConfig(**VISION),
        **_ids(ids, image_token="<|image_pad|>", video_token="<|video_pad|>"),
    )


def _qianfan(layers: int, ids: Ids, vocabulary: int) -> Any:
    return t.QianfanOCRConfig(
        vision_config=t.QianfanOCRVisionConfig(
            **TILED | {"image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]}
        ),
        text_config=_text("Qwen3", layers, vocabulary, head_dim=16),
        image_token_id=ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )


def _ernie(layers: int, ids: Ids, vocabulary: int) -> Any:
    text = _text(
        "Ernie4_5_VLMoeText", layers, vocabulary, moe_intermediate_size=[32, 32], moe_k=2, moe_num_experts=4,
        moe_num_shared_experts=1, mlp_layer_types=(["dense"] + ["sparse"] * layers)[:layers],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [3, 3, 2]},
    )  # fmt: skip
    vision = t.Ernie4_5_VLMoeVisionConfig(
        depth=2, hidden_size=32, num_heads=2, patch_size=PATCH, intermediate_size=64
    )
    return t.Ernie4_5_VLMoeConfig(
        text_config=text,
        vision_config=vision,
        **{f"{name}_id": ids(token) for name, token in _ERNIE_NAMES.items()},
    )


def _exaone(layers: int, ids: Ids, vocabulary: int) -> Any:
    text = _text("Exaone4", layers, vocabulary, sliding_window=24)
    text.layer_types = (["sliding_attention", "full_attention"] * layers)[:layers]
    vision = _qwen_vision(window_size=2 * 2 * PATCH, fullatt_block_indexes=[1], num_key_value_heads=2)
    return t.Exaone4_5_Config(
        text_config=text.to_dict(),
        vision_config=vision,
        **_ids(ids, image_token="<|image_pad|>", video_token="<|video_pad|>"),
    )


def _ernie_processor(tokenizer: Any) -> Any:
    sizes = {"patch_size": PATCH, "size": dict(AREA)}
    return t.Ernie4_5_VLMoeProcessor(
        image_processor=t.Ernie4_5_VLMoeImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=t.Ernie4_5_VLMoeVideoProcessor(**sizes, draw_on_frames=False),
    )


# Windows, and visual tokens that read one another


def _gemma3(layers: int, ids: Ids, vocabulary: int) -> Any:
    text = _text("Gemma3Text", layers, vocabulary, head_dim=16, sliding_window=24, query_pre_attn_scalar=16)
    text.layer_types = ["sliding_attention", "full_attention"] * layers
    text.layer_types = text.layer_types[:layers]
    return t.Gemma3Config(
        text_config=text.to_dict(),
        vision_config=t.SiglipVisionConfig(**TILED, vision_use_head=False).to_dict(),
        mm_tokens_per_image=4,
        image_token_index=ids("<image_soft_token>"),
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
    )


def _gemma4(layers: int, ids: Ids, vocabulary: int) -> Any:
    kinds = ["sliding_attention", "full_attention", "full_attention"] * layers
    text = _text(
        "Gemma4Text", layers, vocabulary, head_dim=16, sliding_window=24, layer_types=kinds[:layers],
        use_bidirectional_attention="vision", hidden_size_per_layer_input=0, vocab_size_per_layer_input=vocabulary,
    )  # fmt: skip
    vision = t.Gemma4VisionConfig(
        **VISION | {"patch_size": 16, "num_key_value_heads": 2, "head_dim": 16},
        pooling_kernel_size=2,
        position_embedding_size=64,
    )
    return t.Gemma4Config(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        audio_config=None,
        **{f"{name}_id": ids(token) for name, token in _GEMMA4_NAMES.items() if name not in ("eoa_token",)},
        eoa_token_index=ids(_GEMMA4_NAMES["eoa_token"]),
        video_token_id=ids("<|video|>"),
    )


def _molmo2(layers: int, ids: Ids, vocabulary: int) -> Any:
    text = _text("Molmo2Text", layers, vocabulary, head_dim=16, additional_vocab_size=16)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    return t.Molmo2Config(
        text_config=text.to_dict(),
        vision_config=t.Molmo2VisionConfig(
            **VISION | heads | {"image_size": [SIDE, SIDE], "num_position_embeddings": 16}
        ).to_dict(),
        adapter_config=t.Molmo2AdapterConfig(
            hidden_size=32, intermediate_size=64, text_hidden_size=64, vision_feature_layer=[1, 0], **heads
        ).to_dict(),
        image_start_token_id=ids("<im_start>"),
        low_res_image_start_token_id=ids("<low_res_im_start>"),
        image_end_token_id=ids("<im_end>"),
        image_patch_id=ids("<im_patch>"),
        frame_start_token_id=ids("<frame_start>"),
        frame_end_token_id=ids("<frame_end>"),
    )


# Processors


def _qwen_processor(
    kind: str, pixels: str, videos: str, size: dict[str, int] = AREA, patch: int = PATCH
) -> Any:
    def processor(tokenizer: Any) -> Any:
        sizes = {"patch_size": patch, "size": dict(size)}
        return getattr(t, f"{kind}Processor")(
            image_processor=getattr(t, pixels)(**sizes),
            tokenizer=tokenizer,
            video_processor=getattr(t, videos)(**sizes),
        )

    return processor


def _llava_next_video_processor(tokenizer: Any) -> Any:
    square = {"size": {"shortest_edge": SIDE}, "crop_size": FIXED}
    return t.LlavaNextVideoProcessor(
        video_processor=t.LlavaNextVideoVideoProcessor(**square),
        image_processor=t.LlavaNextImageProcessor(**square, image_grid_pinpoints=[[SIDE, 2 * SIDE]]),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _video_llava_processor(tokenizer: Any) -> Any:
    square = {"size": {"shortest_edge": SIDE}, "crop_size": FIXED}
    return t.VideoLlavaProcessor(
        image_processor=t.VideoLlavaImageProcessor(**square),
        video_processor=t.VideoLlavaVideoProcessor(**square),
        tokenizer=tokenizer,
        patch_size=PATCH,
    )


def _llava_onevision_processor(tokenizer: Any) -> Any:
    return t.LlavaOnevisionProcessor(
        image_processor=t.LlavaOnevisionImageProcessor(size=FIXED, image_grid_pinpoints=[[SIDE, 2 * SIDE]]),
        tokenizer=tokenizer,
        video_processor=t.LlavaOnevisionVideoProcessor(size=FIXED),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
    )


def _internvl_processor(tokenizer: Any) -> Any:
    return t.InternVLProcessor(
        image_processor=t.GotOcr2ImageProcessor(size=FIXED),
        tokenizer=tokenizer,
        video_processor=t.InternVLVideoProcessor(size=FIXED),
        image_seq_length=4,
    )


def _perception_processor(tokenizer: Any) -> Any:
    return t.PerceptionLMProcessor(
        video_processor=t.PerceptionLMVideoProcessor(size=FIXED),
        image_processor=t.PerceptionLMImageProcessor(tile_size=SIDE),
        tokenizer=tokenizer,
        patch_size=PATCH,
        pooling_ratio=2,
    )


def _smolvlm_processor(tokenizer: Any) -> Any:
    return t.SmolVLMProcessor(
        image_processor=t.SmolVLMImageProcessor(
            size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}
        ),
        tokenizer=tokenizer,
        video_processor=t.SmolVLMVideoProcessor(
            size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, num_frames=8, fps=1
        ),
        image_seq_len=4,
    )


def _video_llama_3_processor(tokenizer: Any) -> Any:
    sizes = {"patch_size": PATCH, "size": dict(AREA)}
    return t.VideoLlama3Processor(
        image_processor=t.VideoLlama3ImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=t.VideoLlama3VideoProcessor(**sizes),
    )


def _gemma3_processor(tokenizer: Any) -> Any:
    return t.Gemma3Processor(
        image_processor=t.Gemma3ImageProcessor(size=FIXED), tokenizer=tokenizer, image_seq_length=4
    )


def _gemma4_processor(tokenizer: Any) -> Any:
    sizes = {"patch_size": 16, "pooling_kernel_size": 2, "max_soft_tokens": 70}
    return t.Gemma4Processor(
        feature_extractor=t.Gemma4AudioFeatureExtractor(),
        image_processor=t.Gemma4ImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=t.Gemma4VideoProcessor(**sizes),
    )


def _molmo2_processor(tokenizer: Any) -> Any:
    sizes = {"size": FIXED, "patch_size": PATCH}
    return t.Molmo2Processor(
        image_processor=t.Molmo2ImageProcessor(**sizes, pooling_size=[2, 2]),
        video_processor=t.Molmo2VideoProcessor(**sizes, pooling_size=[2, 2]),
        tokenizer=tokenizer,
    )


_MEDIA = {"image_token": "<image>", "video_token": "<video>"}
_QWEN_NAMES = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
_INTERN_NAMES = {
    **dict(zip(("start_image_token", "end_image_token", "context_image_token"), MARKS, strict=True)),
    "video_token": "<video>",
}
_SMOL_TOKENS = ("<fake_token_around_image>", "<global-img>", "<image>", "<video>", "<end_of_utterance>")
_PERCEPTION_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|image|>", "<|video|>")
_QWEN2_VIDEO = ("Qwen2VLImageProcessor", "Qwen2VLVideoProcessor")
_QWEN3_PATCH = 16
_DEEPSTACK = {
    "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1], "depth": 3, "patch_size": _QWEN3_PATCH,
}  # fmt: skip
_QWEN3_PIXELS = ("Qwen2VLImageProcessor", "Qwen3VLVideoProcessor")
_QWEN3_AREA = {"shortest_edge": 2 * 2 * 32 * 32, "longest_edge": 12 * 32 * 32}
_QWEN2_VISION = {
    "depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "patch_size": PATCH,
    "temporal_patch_size": 2, "spatial_merge_size": 2,
}  # fmt: skip

GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else 'user' }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<start_of_image>"
    "{% elif content['type'] == 'text' %}{{ content['text'] | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MOLMO_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|image|>{% elif content['type'] == 'video' %}<|video|>"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ERNIE_TEMPLATE = (
    "{% for message in messages %}{{ 'User: ' if message['role'] == 'user' else 'Assistant: ' }}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}Picture 1:<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"
    "{% elif content['type'] == 'video' %}Video 1:<|VIDEO_START|><|VIDEO_PLACEHOLDER|><|VIDEO_END|>"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
_ERNIE_NAMES = {
    "image_token": "<|IMAGE_PLACEHOLDER|>",
    "image_start_token": "<|IMAGE_START|>",
    "image_end_token": "<|IMAGE_END|>",
    "video_token": "<|VIDEO_PLACEHOLDER|>",
    "video_start_token": "<|VIDEO_START|>",
    "video_end_token": "<|VIDEO_END|>",
}
_ERNIE_TOKENS = tuple(_ERNIE_NAMES.values())
_GEMMA_NAMES = {
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
_GEMMA4_NAMES = {
    "image_token": "<image_soft_token>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "audio_token": "<audio_soft_token>",
    "boa_token": "<start_of_audio>",
    "eoa_token": "<end_of_audio>",
}
GEMMA4_TEMPLATE = GEMMA_TEMPLATE.replace(
    "{% elif content['type'] == 'text' %}",
    "{% elif content['type'] == 'video' %}<|video|>{% elif content['type'] == 'text' %}",
).replace("<start_of_image>", "<image_soft_token>")
_MOLMO_TOKENS = (
    *(
        "<im_start>",
        "<im_end>",
        "<im_patch>",
        "<im_col>",
        "<low_res_im_start>",
        "<frame_start>",
        "<frame_end>",
    ),
    *("<im_low>", "<|image|>", "<|video|>"),
)

NATIVE: dict[str, Native] = {
    "llava_next_video": Native(
        _llava_next_video,
        _llava_next_video_processor,
        ("<image>", "<video>", "<pad>"),
        LLAVA_TEMPLATE,
        llama=True,
    ),
    "llava_onevision": Native(
        _llava_onevision, _llava_onevision_processor, ("<image>", "<video>"), ONEVISION_TEMPLATE, _MEDIA
    ),
    "video_llava": Native(
        _video_llava, _video_llava_processor, ("<image>", "<video>", "<pad>"), LLAVA_TEMPLATE, llama=True
    ),
    "perception_lm": Native(
        _perception, _perception_processor, _PERCEPTION_TOKENS, PERCEPTION_TEMPLATE, _tokens_by_name("")
    ),
    "internvl": Native(_internvl, _internvl_processor, (*MARKS, "<video>"), NATIVE_TEMPLATE, _INTERN_NAMES),
    "internvl3_5": Native(
        partial(_internvl, text="Qwen3"),
        _internvl_processor,
        (*MARKS, "<video>"),
        NATIVE_TEMPLATE,
        _INTERN_NAMES,
    ),
    "qwen2_vl": Native(
        _qwen("Qwen2VL", _QWEN2_VISION),
        _qwen_processor("Qwen2VL", *_QWEN2_VIDEO),
        QWEN_MARKS,
        _qwen_template(default_system=True),
    ),
    "qwen2_5_vl": Native(
        _qwen("Qwen2_5_VL", _qwen_vision(window_size=2 * 2 * PATCH, fullatt_block_indexes=[1])),
        _qwen_processor("Qwen2_5_VL", *_QWEN2_VIDEO),
        QWEN_MARKS,
        _qwen_template(default_system=True),
    ),
    "qwen3_vl": Native(
        _qwen("Qwen3VL", _qwen_vision(**_DEEPSTACK), head_dim=16, rope={"mrope_interleaved": True}),
        _qwen_processor("Qwen3VL", *_QWEN3_PIXELS, _QWEN3_AREA, _QWEN3_PATCH),
        QWEN_MARKS,
        _qwen_template(default_system=False),
    ),
    "qwen3_vl_moe": Native(
        _qwen(
            "Qwen3VLMoe",
            _qwen_vision(**_DEEPSTACK),
            head_dim=16,
            rope={"mrope_interleaved": True},
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
        ),
        _qwen_processor("Qwen3VL", *_QWEN3_PIXELS, _QWEN3_AREA, _QWEN3_PATCH),
        QWEN_MARKS,
        _qwen_template(default_system=False),
    ),
    "glm4v": Native(
        _glm("Glm4v"),
        _qwen_processor(
            "Glm4v",
            "Glm4vImageProcessor",
            "Glm4vVideoProcessor",
            {"shortest_edge": 3136, "longest_edge": 4 * 9408},
        ),
        GLM_MARKS,
        GLM_TEMPLATE,
    ),
    "glm46v": Native(
        _glm("Glm46V"),
        _qwen_processor(
            "Glm46V",
            "Glm46VImageProcessor",
            "Glm46VVideoProcessor",
            {"shortest_edge": 3136, "longest_edge": 4 * 9408},
        ),
        GLM_MARKS,
        GLM_TEMPLATE,
    ),
    "smolvlm": Native(
        _smolvlm,
        _smolvlm_processor,
        _SMOL_TOKENS,
        SMOL_TEMPLATE,
        {
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
        },
    ),
    "video_llama_3": Native(
        _video_llama_3,
        _video_llama_3_processor,
        QWEN_MARKS,
        _qwen_template(default_system=False),
        _QWEN_NAMES,
    ),
    "gemma3": Native(
        _gemma3,
        _gemma3_processor,
        (*_GEMMA_NAMES.values(), "<start_of_turn>", "<end_of_turn>", "<pad>"),
        GEMMA_TEMPLATE,
        _GEMMA_NAMES,
        llama=True,
    ),
    "gemma4": Native(
        _gemma4,
        _gemma4_processor,
        (*_GEMMA4_NAMES.values(), "<|video|>", "<start_of_turn>", "<end_of_turn>", "<pad>"),
        GEMMA4_TEMPLATE,
        _GEMMA4_NAMES,
        llama=True,
    ),
    "molmo2": Native(_molmo2, _molmo2_processor, _MOLMO_TOKENS, MOLMO_TEMPLATE),
    "qianfan_ocr": Native(
        _qianfan,
        lambda tokenizer: t.QianfanOCRProcessor(
            image_processor=t.GotOcr2ImageProcessor(size=FIXED), tokenizer=tokenizer, image_seq_length=4
        ),
        (*MARKS, "<image>"),
        NATIVE_TEMPLATE.replace("<IMG_CONTEXT>", "<image>"),
        {name: token for name, token in _INTERN_NAMES.items() if name != "video_token"},
    ),
    "ernie4_5_vl_moe": Native(
        _ernie,
        _ernie_processor,
        _ERNIE_TOKENS,
        ERNIE_TEMPLATE,
        _ERNIE_NAMES,
    ),
    "exaone4_5": Native(
        _exaone,
        _qwen_processor("Exaone4_5_", "Qwen2VLImageProcessor", "Qwen2VLVideoProcessor"),
        QWEN_MARKS,
        _qwen_template(default_system=False),
    ),
    "cosmos3_omni": Native(
        _qwen(
            "Cosmos3Omni",
            _qwen_vision(**_DEEPSTACK),
            text_of="Qwen3VL",
            head_dim=16,
            rope={"mrope_interleaved": True},
        ),
        _qwen_processor("Qwen3VL", *_QWEN3_PIXELS, _QWEN3_AREA, _QWEN3_PATCH),
        QWEN_MARKS,
        _qwen_template(default_system=False),
    ),
}

NEEDS = {"smolvlm": "num2words", "perception_lm": "timm"}  # packages of a family's processor or vision tower

# Of model cards and transformers' documentation; tokens of a frame where its size is fixed.
_BY_SIZE = "by its size"
_PUBLISHED: dict[str, tuple[str, int | None, str]] = {
    "llava_next_video": ("llava-hf/LLaVA-NeXT-Video-7B-hf", 32, "144"),
    "llava_onevision": ("llava-hf/llava-onevision-qwen2-7b-ov-hf", 28, "196"),
    "video_llava": ("LanguageBind/Video-LLaVA-7B-hf", 32, "257"),
    "perception_lm": ("facebook/Perception-LM-8B", 32, "256"),
    "internvl": ("OpenGVLab/InternVL3-8B-hf", 28, "256"),
    "internvl3_5": ("OpenGVLab/InternVL3_5-8B-HF", 36, "256"),
    "qwen2_vl": ("Qwen/Qwen2-VL-7B-Instruct", 28, _BY_SIZE),
    "qwen2_5_vl": ("Qwen/Qwen2.5-VL-7B-Instruct", 28, _BY_SIZE),
    "qwen3_vl": ("Qwen/Qwen3-VL-8B-Instruct", 36, _BY_SIZE),
    "qwen3_vl_moe": ("Qwen/Qwen3-VL-30B-A3B-Instruct", 48, _BY_SIZE),
    "glm4v": ("zai-org/GLM-4.1V-9B-Thinking", 40, _BY_SIZE),
    "glm46v": ("zai-org/GLM-4.6V-Flash", None, _BY_SIZE),
    "video_llama_3": ("lkhl/VideoLLaMA3-2B-Image-HF", 28, _BY_SIZE),
    "qianfan_ocr": ("baidu/Qianfan-OCR", None, "256"),
    "exaone4_5": ("LGAI-EXAONE/EXAONE-4.5-33B", None, _BY_SIZE),
    "cosmos3_omni": ("nvidia/Cosmos3-Nano", None, _BY_SIZE),
    "smolvlm": ("HuggingFaceTB/SmolVLM2-2.2B-Instruct", 24, "81"),
    "gemma3": ("google/gemma-3-4b-it", 34, "256"),
    "gemma4": ("google/gemma-4-26B-A4B-it", None, "70"),
    "molmo2": ("allenai/Molmo2-8B", 36, "81"),
    "ernie4_5_vl_moe": ("baidu/ERNIE-4.5-VL-28B-A3B-PT", 28, _BY_SIZE),
}
NATIVE = {
    name: replace(native, published=_PUBLISHED.get(name, native.published)) for name, native in NATIVE.items()
}


def _hy_v4(layers: int, ids: Ids, vocabulary: int) -> Any:
    text = {
        **TEXT, "head_dim": 16, "moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16,
        "index_topk": 8, "index_head_dim": 16, "index_n_heads": 2, "num_hidden_layers": layers,
        "vocab_size": vocabulary, "num_key_value_heads": 4, "rope_parameters": dict(MROPE, mrope_section=[2, 1, 1]),
        "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    return t.HYV4VLConfig(
        text_config=text,
        vision_config=VISION | {"patch_size": 16, "out_hidden_size": 64},
        **_ids(ids, image_token="<|image_pad|>", video_token="<|video_pad|>"),
    )


def _mllama(layers: int, ids: Ids, vocabulary: int) -> Any:
    vision = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 2,
        "intermediate_size": 64, "vision_output_dim": 64, "image_size": SIDE, "patch_size": PATCH,
        "intermediate_layers_indices": [0],
    }  # fmt: skip
    text = TEXT | {
        "num_hidden_layers": layers,
        "vocab_size": vocabulary,
        "cross_attention_layers": [1],
        "pad_token_id": 0,
    }
    return t.MllamaConfig(vision_config=vision, text_config=text, image_token_index=ids("<|image|>"))


# Families whose layers do something that no flow cuts: they are refused when they are loaded.
REFUSED = {
    "qwen3_5": Native(
        _qwen(
            "Qwen3_5",
            _qwen_vision(num_position_embeddings=16, patch_size=_QWEN3_PATCH),
            head_dim=16,
            rope={"mrope_interleaved": True},
            linear_key_head_dim=16,
            linear_value_head_dim=16,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
        ),
        _qwen_processor("Qwen3VL", *_QWEN3_PIXELS, _QWEN3_AREA, _QWEN3_PATCH),
        QWEN_MARKS,
        _qwen_template(default_system=False),
    ),
    "hy_v4_vl": Native(
        _hy_v4,
        _qwen_processor("HYV4VL", "HYV4VLImageProcessor", "HYV4VLVideoProcessor", _QWEN3_AREA, _QWEN3_PATCH),
        QWEN_MARKS,
        _qwen_template(default_system=False),
    ),
    "mllama": Native(
        _mllama,
        lambda tokenizer: t.MllamaProcessor(t.MllamaImageProcessor(size=FIXED), tokenizer),
        ("<|image|>", "<|python_tag|>", "<pad>"),
        PERCEPTION_TEMPLATE,
        llama=True,
    ),
}
