"""Requests survive their way through a row, and prompt files of every form are read."""

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
