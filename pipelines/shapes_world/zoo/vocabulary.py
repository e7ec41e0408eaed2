"""The tokenizer of small language models: byte-level BPE with a fixed list of words instead of learnt merges.

A word of the list, after a space, is one token. Any other text is encoded by prefixes of words and single bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WORDS = """
a an the this that there is are of in on at to from with and or over under near beside between behind into across
along around by for it its one two three four five six seven eight some many several no not very as then while red
orange yellow green blue purple violet pink brown black white grey gray cyan magenta teal gold silver dark bright
light pale deep soft plain colorful striped dotted circle disc ball square rectangle box triangle diamond star ring
cross ellipse line bar hexagon shape shapes object objects small large big tiny huge thin thick round flat long short
wide narrow tall moves moving move drifts drifting slides sliding falls falling rises rising spins spinning rotates
rotating bounces bouncing grows growing shrinks shrinking jumps swings rolls flies stays rests still slowly quickly
fast slow steady left right up down upwards downwards upper lower top bottom center centre middle corner edge side
diagonal diagonally background foreground scene picture image photo video clip frame camera view shot close person
people man woman child dog cat bird horse car bus train boat plane bicycle tree flower grass leaf sky cloud sun moon
sea water river lake beach sand snow mountain hill rock road street city house building room table chair window door
fire smoke rain light shadow day night morning evening smooth gradient noise texture pattern blurry sharp clean simple
empty filled
circles squares triangles stars crosses rings turns turning stand navy checkered clockwise counterclockwise steadily
noisy pale covered watermark describe Describe sentence detail
""".split()

END = "<|endoftext|>"


def make_tokenizer(
    specials: tuple[str, ...] = (), *, lowercase: bool = False, **settings: object
) -> PreTrainedTokenizerFast:
    """A fast tokenizer over bytes, prefixes of words and words, in that order, then `END` and the special tokens.

    Args:
        specials: further special tokens.
        lowercase: whether texts are converted to lower case first.
        settings: further arguments of `PreTrainedTokenizerFast`.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = []
    for word in dict.fromkeys(WORDS):
        for length in range(1, len(word) + 1):  # "Ġ" + "r", "Ġr" + "e", "Ġre" + "d": words are merged from the left
            merge = ("Ġ" + word[: length - 1], word[length - 1])
            if merge not in merges:
                merges.append(merge)
    pieces += ["".join(merge) for merge in merges]
    tokenizer = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=merges))
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (END, *specials)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False, **settings
    )


def word_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids of the tokens that are complete words."""
    return [tokenizer.convert_tokens_to_ids("Ġ" + word) for word in dict.fromkeys(WORDS)]
