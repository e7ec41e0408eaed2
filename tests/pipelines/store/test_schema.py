"""Columns of other packages: added once, and never redefined."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.store import schema
from pipelines.store.schema import FLOAT, STRING, Column

SCORE = Column(FLOAT, "judge", "a score")


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> dict[str, Column]:
    """A copy of the columns, which the test may change."""
    copy = dict(schema.COLUMNS)
    monkeypatch.setattr(schema, "COLUMNS", copy)
    return copy


def test_a_registered_column_has_a_field() -> None:
    with pytest.raises(KeyError):
        schema.field("judge_score")
    schema.register({"judge_score": SCORE})
    field = schema.field("judge_score")
    assert (field.type, field.metadata) == (FLOAT, {b"doc": b"a score", b"owner": b"judge"})


def test_the_same_definition_may_be_registered_again(columns: dict[str, Column]) -> None:
    schema.register({"judge_score": SCORE})
    count = len(columns)
    schema.register({"judge_score": replace(SCORE)})
    assert len(columns) == count


@pytest.mark.parametrize("name", ["judge_score", "uri"])
@pytest.mark.parametrize("change", [{"type": STRING}, {"owner": "another"}, {"doc": "another score"}])
def test_another_definition_is_refused_and_changes_nothing(
    name: str, change: dict[str, object], columns: dict[str, Column]
) -> None:
    schema.register({"judge_score": SCORE})
    before = dict(columns)
    with pytest.raises(ValueError, match=f"column '{name}' is already defined as .*; choose another name"):
        schema.register({"new_column": SCORE, name: replace(SCORE, **change)})
    assert columns == before


@pytest.mark.odd_input(
    "Text",
    "A model or a library gives text with half a character, as a caption or in the message of an error",
    "The half becomes U+FFFD in its row; the other rows are stored as they are.",
)
def test_half_a_character_is_replaced_in_its_row_alone() -> None:
    rows = [{"prompt": "a cat", "source_captions": []}, {"prompt": "cut \ud83d", "source_captions": ["b\udce9", "c"]}]
    table = schema.arrow_table(rows, [schema.field("prompt"), schema.field("source_captions")])
    assert table.to_pylist() == [rows[0], {"prompt": "cut \ufffd", "source_captions": ["b\ufffd", "c"]}]


def test_an_id_of_any_text_can_be_derived() -> None:
    assert len({schema.derived_id(text) for text in ("a", "a\ud83d", "a\ufffd")}) == 3
