"""Special tokens, chat template and processor of small Qwen-VL models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TURN, TURN_END = "<|im_start|>", "<|im_end|>"
VISION, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"

CHAT_TEMPLATE = f"""
{{%- for message in messages -%}}
{TURN}{{{{ message['role'] }}}}
{{% if message['content'] is string %}}{{{{ message['content'] }}}}
{{%- else %}}
{{%- for part in message['content'] -%}}
{{%- if part['type'] == 'image' -%}}{VISION}{IMAGE}{VISION_END}
{{%- elif part['type'] == 'video' -%}}{VISION}{VIDEO}{VISION_END}
{{%- else -%}}{{{{ part['text'] }}}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- endif -%}}
{TURN_END}
{{% endfor -%}}
{{%- if add_generation_prompt -%}}
{TURN}assistant
{{% endif -%}}
""".strip()


def make_processor(
    tokenizer: PreTrainedTokenizerFast, processor_class: type, video_processor_class: type, **sizes: Any
) -> Any:
    """The processor that turns pictures and chats into the inputs of a Qwen-VL model.

    Args:
        tokenizer: with the family's special tokens.
        processor_class: class of the processor.
        video_processor_class: class of its component for videos.
        sizes: patch_size, merge_size and size.
    """
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    return processor_class(
        image_processor=Qwen2VLImageProcessor(**sizes),
        video_processor=video_processor_class(**sizes),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )
