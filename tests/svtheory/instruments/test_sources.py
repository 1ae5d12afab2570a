import numpy as np
import pytest

from svtheory import HeadBundle, save_heads
from svtheory.checks import InputError
from svtheory.instruments import sources
from svtheory.instruments.sources import Texts


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What `read_heads` asks `read_model` for, given a folder and a file with this content."""
    monkeypatch.setattr(sources, "Checkpoint", lambda _: None)
    monkeypatch.setattr(sources, "read_model", lambda _, **given: given)

    def ask(content, option="text", **texts):
        (tmp_path / "file.txt").write_bytes(content)
        return sources.read_heads(str(tmp_path), Texts(**{option: str(tmp_path / "file.txt"), **texts}))

    return ask


def test_a_text_file_is_read_in_utf_8(asked):
    given = {"text": "größer", "positions": 3, "sequences": 2, "bos": True}
    assert asked("größer".encode(), positions=3, sequences=2, bos=True) == given
    assert asked(b"ab") == {"text": "ab", "positions": 64, "sequences": 40, "bos": None}
    with pytest.raises(InputError, match=r"^file.txt must be UTF-8 text, got byte 0xf6 at 2$"):
        asked("größer".encode("latin-1"))


def test_prompts_stand_one_a_line_as_they_are(asked):
    content = b"one  two \n\n three\n"
    assert asked(content, "prompts") == {"prompts": ["one  two ", " three"], "bos": None}
    assert asked(content, "prompts", sequences=2, bos=False)["prompts"] == ["one  two ", " three"]
    with pytest.raises(InputError, match=r"^--prompts must stand in place of --text, got '.*' beside 'a'$"):
        asked(b"", "prompts", text="a")


@pytest.mark.parametrize("option", ["text", "prompts"])
def test_a_file_that_is_none(monkeypatch, tmp_path, option):
    monkeypatch.setattr(sources, "Checkpoint", lambda _: None)
    with pytest.raises(InputError, match=rf"^--{option} must be a text file for the model to read, got 'none'$"):
        sources.read_heads(str(tmp_path), Texts(**{option: "none"}))


def test_a_bundle_is_cut_with_its_tokens_and_mask(tmp_path):
    W, read = np.ones((1, 1, 2, 3), np.float32), np.ones((1, 4, 2, 3), np.float32)
    mask = np.array([[True, True], [True, False], [True, False], [True, True]])
    bundle = HeadBundle(W, W, attn_in=read, mask=mask, others={"tokens": np.arange(8).reshape(4, 2)})
    save_heads(tmp_path / "a.safetensors", bundle)
    cut = sources.read_heads(str(tmp_path / "a.safetensors"), Texts(sequences=2))
    assert cut.attn_in.shape == (1, 2, 2, 3)
    assert cut.mask.tolist() == [[True, True], [True, False]]
    assert cut.others["tokens"].tolist() == [[0, 1], [2, 3]]
