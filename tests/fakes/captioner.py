"""fake/captioner: a Qwen2.5-VL of less than a million parameters with random weights.

It accepts images and chat messages like the real models, and answers with words that depend on the images but do not
describe them. Its generation settings restrict it to complete words, so that captions are never empty.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.core.model_hub import quiet
from pipelines.shapes_world.zoo.chat import IMAGE, TURN, TURN_END, VIDEO, VISION, VISION_END, make_processor
from pipelines.shapes_world.zoo.vocabulary import END, make_tokenizer, word_ids
from tests.fakes.weights import fill

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig

SEED = 5
PATCH, MERGE = 14, 2
PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 168 * 168}


def build(folder: Path) -> None:
    """Writes the files that `AutoModelForImageTextToText` and `AutoProcessor` load."""
    from transformers import GenerationConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    quiet()
    tokenizer = make_tokenizer(specials=(TURN, TURN_END, VISION, VISION_END, IMAGE, VIDEO), padding_side="left")
    model = Qwen2_5_VLForConditionalGeneration(_config(tokenizer))
    fill(model, SEED)
    words = set(word_ids(tokenizer))
    model.generation_config = GenerationConfig(
        do_sample=False,
        repetition_penalty=1.5,
        suppress_tokens=[token for token in range(len(tokenizer)) if token not in words],
        eos_token_id=tokenizer.convert_tokens_to_ids(TURN_END),
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    processor = make_processor(
        tokenizer, Qwen2_5_VLProcessor, Qwen2VLVideoProcessor, patch_size=PATCH, merge_size=MERGE, size=PIXELS
    )
    processor.save_pretrained(folder)


def _config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    from transformers import Qwen2_5_VLConfig

    def token(text: str) -> int:
        return tokenizer.convert_tokens_to_ids(text)

    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "mrope_section": [4, 4, 4], "rope_theta": 10000.0},
            "bos_token_id": token(END),
            "eos_token_id": token(TURN_END),
            "pad_token_id": token(END),
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": 96,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "fullatt_block_indexes": [1],
        },
        image_token_id=token(IMAGE),
        video_token_id=token(VIDEO),
        vision_start_token_id=token(VISION),
        vision_end_token_id=token(VISION_END),
    )
