import numpy as np
import pytest

from svtheory.checks import InputError
from svtheory.instruments import sources


@pytest.fixture
def reads(monkeypatch, tmp_path):
    """`read_heads` of a folder, its tokens those of a tokenizer of characters."""
    monkeypatch.setattr(sources, "tokenize", lambda _, text: [ord(letter) for letter in text])
    monkeypatch.setattr(sources, "Checkpoint", lambda folder: folder)
    monkeypatch.setattr(sources, "bundle_heads", lambda _, tokens, folded: tokens)

    def read(content):
        (tmp_path / "text.txt").write_bytes(content)
        return sources.read_heads(str(tmp_path), sources.Texts(str(tmp_path / "text.txt"), 2, 3))

    return read


def test_texts_are_utf_8(reads):
    assert np.array_equal(reads("größer".encode()), [[ord(x) for x in "grö"], [ord(x) for x in "ßer"]])


def test_a_broken_byte_is_one_sentence(reads):
    with pytest.raises(InputError, match=r"^text.txt must be UTF-8 text, got byte 0xf6 at 2$"):
        reads("größer".encode("latin-1"))


def test_a_short_text_is_one_sentence(reads):
    with pytest.raises(InputError, match=r"^--text must hold at least 3 tokens, one sequence, got 2$"):
        reads(b"ab")
