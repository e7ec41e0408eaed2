"""Requests survive their way through a row, and prompt files of every form are read."""

import json

import pytest

from pipelines.generation.requests import SampleRequest, prompt_requests, read_prompts


def test_a_row_holds_a_request_as_its_columns():
    request = SampleRequest(prompt="a", path="a.mp4", seeds=(3, 4), frames=5, motion=2.0, image="first.png")
    assert SampleRequest.from_row(request.columns()) == request
    assert [single.seeds for single in request.one_per_seed()] == [(3,), (4,)]


def test_the_ending_tells_videos_from_images():
    image, video = (prompt_requests(["a"], samples=1, seed=7, video=video)[0] for video in (False, True))
    assert (image.path, image.is_video) == ("00000-7.png", False)
    assert (video.path, video.is_video) == ("00000-7.mp4", True)


def test_seeds_of_a_prompt_count_up_from_the_first():
    requests = prompt_requests(["a", "b"], samples=2, seed=5, video=False)
    assert [(request.prompt, request.seeds) for request in requests] == [
        ("a", (5,)), ("a", (6,)), ("b", (5,)), ("b", (6,)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [("p.txt", "a cat\n\n a dog \n"),
     ("p.jsonl", '{"prompt": "a cat"}\n{"prompt": "a dog"}\n'),
     ("P.JSONL", '{"prompt": "a cat"}\n{"prompt": "a dog"}\n'),
     ("p.json", '["a cat", {"prompt": "a dog"}]')],
)  # fmt: skip
def test_prompt_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_prompts(str(tmp_path / name)) == ["a cat", "a dog"]


def test_an_empty_prompt_file_is_refused(tmp_path):
    (tmp_path / "p.txt").write_text("\n")
    with pytest.raises(ValueError, match="holds no prompts"):
        read_prompts(str(tmp_path / "p.txt"))


def test_a_prompt_file_that_is_no_text_is_named(tmp_path):
    for name in ("a.txt", "a.jsonl", "a.json"):
        (tmp_path / name).write_bytes(b"\xff\xfe\xfa prompts")
        with pytest.raises(ValueError, match=f"{name} is no text in UTF-8"):
            read_prompts(str(tmp_path / name))


def test_a_mark_at_the_start_of_a_prompt_file_is_no_prompt(tmp_path):
    (tmp_path / "a.txt").write_text("a cat\n", encoding="utf-8-sig")
    assert read_prompts(str(tmp_path / "a.txt")) == ["a cat"]


INSIDE = "a red ball\u2028on grass\x85and\u2029more"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", f"{INSIDE}\x0b\x0c\x1cin it\r\na blue box\n"),
        ("p.jsonl", f'{{"prompt": "{INSIDE}\\u000b\\f\\u001cin it"}}\r\n{{"prompt": "a blue box"}}\n'),
        ("p.json", json.dumps([f"{INSIDE}\x0b\x0c\x1cin it", "a blue box"])),
    ],
)
def test_prompts_end_at_line_ends_alone(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode())
    assert read_prompts(str(tmp_path / name)) == [f"{INSIDE}\x0b\x0c\x1cin it", "a blue box"]


@pytest.mark.odd_input(
    "Text",
    "A prompt with half a character, or with a NUL",
    "The half becomes U+FFFD, the NUL a blank, and the sample is generated.",
)
def test_half_a_character_in_a_prompt_is_replaced(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "cut \\ud83d"}\n{"prompt": "a\\u0000b"}\n')
    (tmp_path / "p.json").write_text('["cut \\ud83d", "a\\u0000b"]')
    (tmp_path / "p.txt").write_bytes(b"cut \xef\xbf\xbd\na\0b\n")
    for name in ("p.jsonl", "p.json", "p.txt"):
        assert read_prompts(str(tmp_path / name)) == ["cut \ufffd", "a b"]


@pytest.mark.parametrize("value", ["NaN", "null", "12", '["a"]'])
def test_a_prompt_that_is_no_text_is_named_by_its_line(tmp_path, value):
    (tmp_path / "p.jsonl").write_text(f'{{"prompt": "a"}}\n\n{{"prompt": {value}}}\n')
    with pytest.raises(ValueError, match=r"p\.jsonl, line 3: an entry has no prompt"):
        read_prompts(str(tmp_path / "p.jsonl"))
    (tmp_path / "p.json").write_text(f'["a", {{"prompt": {value}}}]')
    with pytest.raises(ValueError, match=r"p\.json, entry 2: an entry has no prompt"):
        read_prompts(str(tmp_path / "p.json"))


def test_a_broken_prompt_file_is_named_with_its_line(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    with pytest.raises(ValueError, match=r"p\.jsonl, line 2: invalid JSON"):
        read_prompts(str(tmp_path / "p.jsonl"))
    (tmp_path / "p.json").write_text('{"prompt": "a"}')
    with pytest.raises(ValueError, match=r"no JSON list"):
        read_prompts(str(tmp_path / "p.json"))
    (tmp_path / "p.txt").write_bytes(b"a\nb\ncaf\xe9\n")
    with pytest.raises(ValueError, match=r"p\.txt is no text in UTF-8 \(line 3\); save it as UTF-8"):
        read_prompts(str(tmp_path / "p.txt"))
