"""The tokenizer of the zoo's language models: its words are single tokens, and any other text survives a round trip."""

from __future__ import annotations

from pipelines.shapes_world.zoo import vocabulary


def test_words_are_tokens_and_any_text_survives():
    tokenizer = vocabulary.make_tokenizer()
    assert tokenizer.tokenize("a red circle moves") == ["Ġa", "Ġred", "Ġcircle", "Ġmoves"]
    for text in ("redder circlet, 42!", "Žluťoučký kůň 北京 🦊", "line\nline"):
        assert tokenizer.decode(tokenizer(text).input_ids).removeprefix(" ") == text
    words = {tokenizer.decode(token) for token in vocabulary.word_ids(tokenizer)}
    assert len(words) == len(set(vocabulary.WORDS))
