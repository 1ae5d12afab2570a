import sys
from types import ModuleType, SimpleNamespace

import pytest

from svtheory.checkpoints import fetch, tokenize
from svtheory.checks import InputError


def test_without_the_extra_the_remedy_is_named(monkeypatch, tmp_path):
    for name in ("huggingface_hub", "tokenizers"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r'fetch needs huggingface_hub: pip install "svtheory\[hub\]"'):
        fetch("EleutherAI/pythia-160m")
    with pytest.raises(InputError, match=r'tokenize needs tokenizers: pip install "svtheory\[hub\]"'):
        tokenize(tmp_path, "text")


def stand_in(monkeypatch, download):
    """A huggingface_hub that downloads nothing."""
    hub = ModuleType("huggingface_hub")
    kinds = {name: type(name, (Exception,), {}) for name in ("HfHubHTTPError", "HFValidationError")}
    hub.errors, hub.snapshot_download = SimpleNamespace(**kinds), download
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)


def test_a_revision_is_fetched_without_other_files(monkeypatch, tmp_path):
    asked = []
    stand_in(monkeypatch, lambda name, **options: asked.append((name, options)) or str(tmp_path))
    assert fetch("EleutherAI/pythia-160m", "step512") == tmp_path
    ((name, options),) = asked
    assert (name, options["revision"]) == ("EleutherAI/pythia-160m", "step512")
    assert not any(pattern.endswith((".bin", ".py", ".pt")) for pattern in options["allow_patterns"])


def test_no_network_is_one_sentence(monkeypatch):
    def download(*_, **__):
        raise OSError("no network\nand more")

    stand_in(monkeypatch, download)
    with pytest.raises(InputError, match=r"^the hub must have 'a/b' at revision 'main', got: no network$"):
        fetch("a/b")


class Kept:
    """A tokenizer that obeys what was saved with it, as the real one does."""

    def __init__(self):
        self.longest, self.shortest, self.model = 4, 12, SimpleNamespace(dropout=0.9)

    def no_truncation(self):
        self.longest = None

    def no_padding(self):
        self.shortest = 0

    def encode(self, text):
        read = [0 if self.model.dropout else len(word) for word in text.split()][: self.longest]
        return SimpleNamespace(ids=read + [0] * (self.shortest - len(read)))


def test_texts_are_read_whole(monkeypatch, tmp_path):
    """Whatever truncation, padding and dropout the folder's tokenizer was saved with."""
    stand_in = SimpleNamespace(from_str=lambda _: Kept())
    monkeypatch.setitem(sys.modules, "tokenizers", SimpleNamespace(Tokenizer=stand_in))
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    text = "nine words of which there are not four only"
    assert tokenize(tmp_path, text) == [len(word) for word in text.split()]


@pytest.fixture
def saved(tmp_path):
    """A real tokenizer of words and one of merged bytes, saved with truncation, padding and dropout."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra hub")

    def save(merges):
        words = {"[PAD]": 0, "ab": 1, "a": 2, "b": 3}
        model = (
            tokenizers.models.BPE(words, [("a", "b")], dropout=0.9)
            if merges
            else tokenizers.models.WordLevel(words, unk_token="[PAD]")
        )
        made = tokenizers.Tokenizer(model)
        made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        made.enable_truncation(4)
        made.enable_padding(length=12)
        made.save(str(tmp_path / "tokenizer.json"))
        return tmp_path

    return save


@pytest.mark.parametrize("merges", [False, True])
def test_texts_are_read_whole_by_the_real_one(saved, merges):
    folder = saved(merges)
    assert [tokenize(folder, "ab " * 9) for _ in range(5)] == [[1] * 9] * 5


def test_a_text_that_is_no_text(saved):
    for text in ("\udc80", 3, None):
        with pytest.raises(InputError, match=r"^text must be Unicode text, got [^\n]*$"):
            tokenize(saved(False), text)


def test_a_broken_byte_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tokenizers", SimpleNamespace(Tokenizer=None))
    (tmp_path / "tokenizer.json").write_bytes(b'{"\xff": 1}')
    with pytest.raises(InputError, match=r"^tokenizer.json must be UTF-8 text, got byte 0xff at 2$"):
        tokenize(tmp_path, "text")


def test_a_text_by_the_folders_tokenizer(tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra hub")
    model = tokenizers.models.WordLevel({"one": 0, "two": 1, "three": 2}, unk_token="one")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    assert tokenize(tmp_path, "three two three") == [2, 1, 2]
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer.json must be a tokenizer's file, got '.*"):
        tokenize(tmp_path, "one")
