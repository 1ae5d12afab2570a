import sys
from fnmatch import fnmatch
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from svtheory.checkpoints import fetch, fetch_dictionary, fetch_named, read_dictionary
from svtheory.checks import InputError
from svtheory.instruments import sources
from svtheory.instruments.command import run


def test_without_the_extra_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r'fetch needs huggingface_hub: pip install "svtheory\[hub\]"'):
        fetch("EleutherAI/pythia-160m")


def stand_in(monkeypatch, download):
    """A huggingface_hub that downloads nothing."""
    hub = ModuleType("huggingface_hub")
    kinds = {name: type(name, (Exception,), {}) for name in ("HfHubHTTPError", "HFValidationError")}
    hub.errors, hub.snapshot_download = SimpleNamespace(**kinds), download
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return hub.errors


def downloading(folder, files, asked):
    """What gives the files of a repository that match what is asked for, and are not ignored, as the hub does."""

    def download(name, *, revision, allow_patterns, ignore_patterns):
        asked.append((name, revision))
        for file in files:
            wanted = any(fnmatch(file, pattern) for pattern in allow_patterns)
            if wanted and not any(fnmatch(file, pattern) for pattern in ignore_patterns or ()):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(files[file])
        return str(folder)

    return download


def got(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


MODEL = dict.fromkeys(
    [
        *("config.json", "tokenizer.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        *("model.safetensors.index.json", "pytorch_model.bin", "modeling_x.py", "README.md", "training_args.pt"),
        *("original/consolidated.safetensors", "onnx/config.json", "tokenizer.model"),
    ],
    b"",
)


@pytest.mark.parametrize(
    ("call", "revision"), [(lambda: fetch("a/b", "step512"), "step512"), (lambda: fetch_named("hf:a/b"), "main")]
)
def test_a_revision_is_fetched_without_other_files(monkeypatch, tmp_path, call, revision):
    asked = []
    stand_in(monkeypatch, downloading(tmp_path, MODEL, asked))
    assert call() == tmp_path
    assert asked == [("a/b", revision)]
    assert got(tmp_path) == sorted([*list(MODEL)[:4], "model.safetensors.index.json"])


SCOPE = dict.fromkeys(
    [
        *(
            "a/L15R-8x/hyperparams.json",
            "a/L15R-8x/checkpoints/final.safetensors",
            "a/L16R-8x/checkpoints/final.safetensors",
        ),
        *("b/params.npz", "b/deep/params.npz", "layer5.safetensors", "layer6.safetensors", "config.json", "c/ae.pt"),
    ],
    b"",
)


@pytest.mark.parametrize(
    ("path", "files"),
    [
        ("/a/L15R-8x", ["a/L15R-8x/checkpoints/final.safetensors", "a/L15R-8x/hyperparams.json"]),
        (
            "/a/L15R-8x/checkpoints/final.safetensors",
            ["a/L15R-8x/checkpoints/final.safetensors", "a/L15R-8x/hyperparams.json"],
        ),
        ("/b", ["b/params.npz"]),
        ("/layer5.safetensors", ["config.json", "layer5.safetensors"]),
    ],
)
def test_of_a_dictionary_only_its_files_are_fetched(monkeypatch, tmp_path, path, files):
    asked = []
    stand_in(monkeypatch, downloading(tmp_path, SCOPE, asked))
    assert fetch_dictionary(f"hf:org/repo{path}@v1") == tmp_path / path[1:]
    assert asked == [("org/repo", "v1")]
    assert got(tmp_path) == files


def test_what_cannot_be_had_is_one_sentence(monkeypatch, tmp_path):
    def download(*_, **__):
        raise raised.pop()

    raised, errors = [], stand_in(monkeypatch, download)
    for error, said in (
        (OSError("no network\nand more"), "no network"),
        (errors.HfHubHTTPError("404: revision not found"), "404: revision not found"),
        (errors.HFValidationError(""), "HFValidationError"),
    ):
        raised.append(error)
        with pytest.raises(InputError, match=rf"^the hub must have 'a/b' at revision 'x', got: {said}$"):
            fetch("a/b", "x")
    stand_in(monkeypatch, downloading(tmp_path, SCOPE, []))
    with pytest.raises(InputError, match=r"^the hub must have 'e/f' in 'a/b' at revision 'main', got nothing there$"):
        fetch_dictionary("hf:a/b/e/f")
    with pytest.raises(InputError, match=r"got 'hf:a/b/c/ae.pt', a pickle"):
        fetch_dictionary("hf:a/b/c/ae.pt")
    for source in ("hf:gpt2", "hf:a/b@", "hf:a/b c"):
        with pytest.raises(InputError, match=rf"^a name of the hub must be hf:ORG/NAME@REVISION, got '{source}'$"):
            fetch_dictionary(source)
    with pytest.raises(InputError, match=r"^a model of the hub must be named hf:ORG/MODEL@REVISION, got 'hf:a/b/c'$"):
        fetch_named("hf:a/b/c")


def test_the_real_library_takes_what_it_is_asked(monkeypatch, tmp_path):
    """Offline and with nothing in its cache, it says so as an error that becomes a sentence."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"^the hub must have 'a/b' at revision 'main', got: "):
        fetch("a/b")


def test_instruments_read_models_and_series_of_the_hub(monkeypatch, tmp_path, capsys):
    """What is fetched is read as its folder is; a text is asked for before anything is fetched."""
    fetched, read = [], []
    monkeypatch.setattr(sources, "fetch_named", lambda source: fetched.append(source) or tmp_path)
    monkeypatch.setattr(sources, "read_model", lambda folder, **given: read.append((folder, given)) or "heads")
    (tmp_path / "t.txt").write_text("some text")
    texts = sources.Texts(text=str(tmp_path / "t.txt"), positions=8)
    assert sources.read_heads("hf:a/b@step1", texts) == "heads"
    assert (fetched, read[0][0], read[0][1]["positions"]) == (["hf:a/b@step1"], tmp_path, 8)
    assert sources.Series(models=("hf:a/b@step1", "hf:a/b@step64")).label == "b@step1-b@step64"
    assert sources.named("hf:a/b@refs/pr/1") == "b@refs-pr-1"
    with pytest.raises(SystemExit):
        run("sad", ["hf:a/b", "--out", str(tmp_path / "runs")])
    assert "--text must be a text file for the model to read, got ''" in capsys.readouterr().err
    assert len(fetched) == 1
    assert not (tmp_path / "runs").exists()


def test_a_dictionary_of_the_hub_is_read(monkeypatch, tmp_path):
    np.savez(tmp_path / "params.npz", W_dec=np.eye(3))
    files = {"x/params.npz": (tmp_path / "params.npz").read_bytes()}
    stand_in(monkeypatch, downloading(tmp_path / "hub", files, []))
    assert read_dictionary(fetch_dictionary("hf:a/b/x"), "resid_pre").source == "x"
