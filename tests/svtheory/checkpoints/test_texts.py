import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from svtheory.checkpoints import tokenize
from svtheory.checkpoints.texts import Reader, padded, pieces
from svtheory.checks import InputError

WORDS = {"[S]": 0, "ab": 1, "a": 2, "b": 3, "[E]": 4}


def saved(folder, special=False, merges=False):
    """A tokenizer of words or of merged letters, saved with truncation, padding and dropout; `special` ends too."""
    model = models.BPE(WORDS, [("a", "b")], dropout=0.9) if merges else models.WordLevel(WORDS, unk_token="[E]")
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        ends = [(name, WORDS[name]) for name in ("[S]", "[E]")]
        made.post_processor = processors.TemplateProcessing("[S] $A [E]", special_tokens=ends)
    made.enable_truncation(4)
    made.enable_padding(length=12)
    made.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("merges", [False, True])
def test_texts_are_read_whole(tmp_path, merges):
    folder = saved(tmp_path, merges=merges)
    assert [tokenize(folder, "ab " * 9) for _ in range(5)] == [[1] * 9] * 5


def test_a_text_by_the_folders_tokenizer(tmp_path):
    assert tokenize(saved(tmp_path), "b a b") == [3, 2, 3]
    assert tokenize(saved(tmp_path, special=True), "b a b") == [0, 3, 2, 3, 4]
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer.json must be a tokenizer's file, got '.*"):
        tokenize(tmp_path, "one")


def test_a_text_that_is_no_text(tmp_path):
    for text in ("\udc80", 3, None):
        with pytest.raises(InputError, match=r"^text must be Unicode text, got [^\n]*$"):
            tokenize(saved(tmp_path), text)


def test_a_broken_byte_is_one_sentence(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(b'{"\xff": 1}')
    with pytest.raises(InputError, match=r"^tokenizer.json must be UTF-8 text, got byte 0xff at 2$"):
        tokenize(tmp_path, "text")


# what begins each row: (does the tokenizer put it there, bos, rows of "a b a b ab" of 3 positions, a prompt "a")
BEGINNINGS = {
    "as the tokenizer has it": (True, None, [[0, 2, 3], [0, 2, 3]], [0, 2]),
    "wanted, and there": (True, True, [[0, 2, 3], [0, 2, 3]], [0, 2]),
    "not wanted": (True, False, [[2, 3, 2]], [2]),
    "none": (False, None, [[2, 3, 2]], [2]),
    "wanted, of the config": (False, True, [[4, 2, 3], [4, 2, 3]], [4, 2]),
}


@pytest.mark.parametrize("case", BEGINNINGS)
def test_what_each_row_begins_with(tmp_path, case):
    special, bos, rows, prompt = BEGINNINGS[case]
    reader = Reader(saved(tmp_path, special), bos, bos_token=4)
    found, left = reader.rows("a b a b ab", 3)
    assert found.tolist() == rows
    assert left == 5 - sum(len(row) - len(prompt) + 1 for row in rows)
    assert reader.prompt("a") == prompt
    assert reader.rows("a", 3)[0].shape == (0, 3)


def test_special_tokens_that_a_text_spells_are_its_own(tmp_path):
    made = Tokenizer.from_file(str(saved(tmp_path, special=True) / "tokenizer.json"))
    made.add_special_tokens(["[S]", "[E]"])
    made.save(str(tmp_path / "tokenizer.json"))
    assert Reader(tmp_path, None, None).prompt("[S] a [E]") == [0, 0, 2, 4]
    assert Reader(tmp_path, False, None).rows("[S] a [E] b", 2)[0].tolist() == [[0, 2], [4, 3]]


def test_a_beginning_that_is_not_there(tmp_path):
    for bos_token in (None, 99):
        with pytest.raises(InputError, match=r"^bos_token_id of config.json must be a whole number from 0 to 4, got"):
            Reader(saved(tmp_path), True, bos_token).prompt("a")
    with pytest.raises(InputError, match=r"^bos must be True or False, got 'yes'$"):
        Reader(tmp_path, "yes", 0)
    with pytest.raises(InputError, match=r"^positions must be more than 1, which each row begins with, got 1$"):
        Reader(saved(tmp_path, special=True), None, 0).rows("a b", 1)


def test_rows_of_different_lengths_are_padded():
    tokens, mask = padded([[5, 6], [7], [8, 9, 1]])
    assert tokens.tolist() == [[5, 6, 6], [7, 7, 7], [8, 9, 1]]
    assert mask.tolist() == [[True, True, False], [True, False, False], [True] * 3]
    assert padded([[5, 6], [7, 8]])[1] is None
    for rows in ([], [[1], []], [1, 2], 5):
        with pytest.raises(InputError, match=r"^tokens must be rows of at least one token, got"):
            padded(rows)


def test_pieces_joined_are_the_text():
    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bytes_alone = Tokenizer(models.BPE(alphabet, []))
    bytes_alone.pre_tokenizer, bytes_alone.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    found = pieces(bytes_alone, bytes_alone.encode("a \u00e9\u2713b").ids)
    assert found == ["a", " ", "", "\u00e9", "", "", "\u2713", "b"]
    assert pieces(bytes_alone, [alphabet["a"], 9999, alphabet["b"]]) == ["a", "", "b"]
