"""zoo/text_encoder: a Phi that has learnt to predict the next word in captions of the shapes world.

Image models use its last features. Predicting the next word does not require that these tell which word was just read
("a red" and "a blue" continue alike), which is what an image model needs most. Therefore two auxiliary heads predict
the current and the previous word from them during training; they are discarded afterwards.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core.model_hub import quiet
from pipelines.shapes_world.scenes import long_caption, sample_scene, short_caption
from pipelines.shapes_world.zoo.scenes import generator
from pipelines.shapes_world.zoo.training import Plan, fit
from pipelines.shapes_world.zoo.vocabulary import make_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

SEED = 13
POSITIONS = 512
WIDTH = 96
CONTEXT = 32
BATCH = 128
PLAN = Plan(steps=500, lr=2e-3, warmup=50, cool=0.6, weight_decay=0.05, ema=0.99)


def make() -> tuple[Any, Any]:
    """An untrained causal language model, whose body is the text encoder, and its tokenizer."""
    from transformers import PhiConfig, PhiForCausalLM

    tokenizer = make_tokenizer(lowercase=True, model_max_length=POSITIONS)
    config = PhiConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return PhiForCausalLM(config), tokenizer


def train(state: Path, *, plan: Plan = PLAN, seed: int = SEED) -> Any:
    """Returns the trained language model; `state` is the file of the training's state."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.manual_seed(seed)
    model, tokenizer = make()
    words = len(tokenizer)
    # "own" and "before" are keys of training states that may be resumed
    trained: Any = nn.ModuleDict({"model": model, "own": nn.Linear(WIDTH, words), "before": nn.Linear(WIDTH, words)})

    def loss(batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        output = model(**batch, output_hidden_states=True)
        features, labels = output.hidden_states[-1], batch["labels"]
        current = F.cross_entropy(trained["own"](features).transpose(1, 2), labels)
        previous = F.cross_entropy(trained["before"](features[:, 1:]).transpose(1, 2), labels[:, :-1])
        return {"loss": output.loss + current + previous, "next": output.loss, "current": current, "previous": previous}

    fit(trained, plan, partial(_batch, seed, tokenizer), loss, state)
    return model


def _batch(seed: int, tokenizer: Any, step: int) -> dict[str, Tensor]:
    rng = generator(seed, step)
    end = tokenizer.eos_token
    captions = [f"{caption(rng)}{end}" for _ in range(BATCH)]
    tokens = tokenizer(captions, return_tensors="pt", padding="max_length", max_length=CONTEXT, truncation=True)
    hidden = tokens.attention_mask == 0
    return {**tokens, "labels": tokens.input_ids.masked_fill(hidden, -100)}


def caption(rng: np.random.Generator) -> str:
    """A caption of a random scene, of a picture or a video, short or long."""
    video = rng.random() < 0.6
    scene = sample_scene(rng, width=64, height=64, seconds=1.3 if video else 0.0, still=rng.random() < 0.15)
    text = short_caption(scene) if rng.random() < 0.5 else long_caption(scene, video=video)
    return without_speed(text) if rng.random() < 0.7 else text


def without_speed(caption: str) -> str:
    """A caption without its adverbs of speed, which a few frames without timestamps do not show."""
    return " ".join(word for word in caption.split(" ") if word not in ("slowly", "steadily", "quickly"))


def save(model: Any, folder: Path) -> None:
    """Writes body and tokenizer as `AutoModel` and `AutoTokenizer` read them."""
    quiet()
    _, tokenizer = make()
    model.model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
