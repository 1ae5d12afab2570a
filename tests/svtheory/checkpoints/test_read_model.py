"""A model's folder is a bundle in one call: what it reads in texts, prompts and tokens."""

import json

import numpy as np
import pytest
from small_models import GPT2, V, naive, weights, write
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from svtheory import load_heads, read_model, save_heads
from svtheory.checks import InputError

TENSORS = weights(GPT2)
TEXT = "1 2 3 4 5 6 7 8 9 10"


@pytest.fixture
def folder(tmp_path):
    """A GPT-2 of words, the numbers below its vocabulary; its tokenizer begins texts with token 0."""
    write(tmp_path, GPT2 | {"bos_token_id": 28}, TENSORS)
    made = Tokenizer(models.WordLevel({str(i): i for i in range(V)}, unk_token="0"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing("0 $A", special_tokens=[("0", 0)])
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def agree(bundle, sequences, atol=1e-5):
    """What heads read of each sequence is what a naive forward pass, of it alone, in float64 has it."""
    for s, sequence in enumerate(sequences):
        _, read, _ = naive(GPT2, TENSORS, np.array(sequence))
        assert np.abs(bundle.attn_in[:, s, : len(sequence)] - read).max() <= atol * np.abs(read).max()


def test_texts_are_cut_into_rows_that_begin_with_the_models_token(folder):
    bundle = read_model(folder, TEXT, positions=5, sequences=2, folded=False)
    rows = [[0, 1, 2, 3, 4], [0, 5, 6, 7, 8]]
    assert bundle.others["tokens"].tolist() == rows
    assert bundle.mask is None
    assert bundle.real.shape == (2, 5)
    agree(bundle, rows)
    assert "sequences" not in bundle.metadata
    assert bundle.metadata["tokens_left_over"] == str(len(TEXT.split()) - 8)
    several = read_model(folder, [TEXT, "9 9", "5 6 7 8 9"], positions=5, sequences=9, bos=False, folded=False)
    assert several.others["tokens"].tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [5, 6, 7, 8, 9]]
    assert "sequences" not in several.metadata
    for texts, cut in (([TEXT], "1 of 2"), ([TEXT, TEXT], "1 of more than 2")):
        assert read_model(folder, texts, positions=5, sequences=1, bos=False).metadata["sequences"] == cut


def test_prompts_are_left_as_they_are_and_padding_is_masked(folder):
    """Each is read as if it were alone, and a bundle keeps where it ends when it is saved."""
    bundle = read_model(folder, prompts=["1 2 3 4", "9"], folded=False)
    assert bundle.real.tolist() == [[True] * 5, [True, True, False, False, False]]
    assert bundle.others["tokens"][bundle.real].tolist() == [0, 1, 2, 3, 4, 0, 9]
    agree(bundle, [[0, 1, 2, 3, 4], [0, 9]])
    save_heads(folder / "a.safetensors", bundle)
    again = load_heads(folder / "a.safetensors")
    assert np.array_equal(again.mask, bundle.mask)
    assert "padded: 7 tokens" in str(again)


def test_attention_is_kept_where_it_is_asked_for(folder):
    rows = [[1, 2, 3, 4, 5], [5, 6]]
    bundle = read_model(folder, tokens=rows, attention=True)
    for s, sequence in enumerate(rows):
        n = len(sequence)
        *_, paid = naive(GPT2, TENSORS, np.array(sequence))
        assert np.abs(bundle.others["attention"][:, s, :, :n, :n] - paid).max() <= 1e-4
    assert "attention" not in read_model(folder, tokens=rows).others


def test_a_model_that_reads_nothing(folder):
    bundle = read_model(folder)
    assert bundle.attn_in is None
    assert bundle.scoring.folded
    with pytest.raises(InputError, match="bundle must hold attn_in, what its heads read, got one without"):
        _ = bundle.real


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"text": TEXT, "tokens": [[1]]}, "text must be all that is read, got tokens beside it"),
        ({"text": TEXT}, "positions must be at most 32, the model's context, got 64"),
        ({"text": TEXT, "positions": 12}, "text must hold at least 12 tokens, one sequence, got 11$"),
        ({"text": TEXT, "positions": 1}, "positions must be a whole number of at least 2, got 1"),
        ({"text": TEXT, "sequences": 0}, "sequences must be a whole number of at least 1, got 0"),
        ({"text": 3}, "text must be several texts, got 3"),
        ({"text": [3], "positions": 5}, "text must be Unicode text, got 3"),
        ({"prompts": TEXT}, "prompts must be several texts, got '1 2 3"),
        ({"prompts": []}, "tokens must be rows of at least one token, got \\[\\]"),
        ({"prompts": [""], "bos": False}, "tokens must be rows of at least one token"),
        ({"prompts": ["1 " * 40]}, "tokens must have at most 32 positions, the model's context, got 41"),
        ({"tokens": [[1, 99]]}, "tokens must lie from 0 to 28, the vocabulary, got 99"),
        ({"tokens": [[1.0]]}, "tokens must be whole numbers"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(folder, given, sentence):
    with pytest.raises(InputError, match=f"^{sentence}"):
        read_model(folder, **given)


def test_a_beginning_of_the_config(folder):
    made = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(made | {"post_processor": None}))
    tokens = [read_model(folder, prompts=["1 2 3 4 5", "7"], bos=bos).others["tokens"].tolist() for bos in (None, True)]
    assert tokens == [[[1, 2, 3, 4, 5], [7, 7, 7, 7, 7]], [[28, 1, 2, 3, 4, 5], [28, 7, 7, 7, 7, 7]]]
