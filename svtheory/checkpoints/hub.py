"""The hub: a checkpoint fetched by its name and revision, where there is a network."""

from pathlib import Path

from svtheory.checkpoints.texts import read_text
from svtheory.checks import InputError

# an adapter's config too: a model with one is refused
FILES = ("config.json", "tokenizer.json", "*.safetensors", "*.safetensors.index.json", "adapter_config.json")


def fetch(name: str, revision: str = "main") -> Path:
    """The folder of a model of the Hugging Face hub, say EleutherAI/pythia-160m at revision step512.

    Downloaded unless it is there, only config, tokenizer and safetensors files. Needs the extra `hub`; raises
    InputError without it, and for a name or revision that cannot be had.
    """
    try:
        from huggingface_hub import errors, snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f'fetch needs huggingface_hub: pip install "svtheory[hub]" ({error})') from error
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except (OSError, ValueError, errors.HfHubHTTPError, errors.HFValidationError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the hub must have {name!r} at revision {revision!r}, got: {reason}") from error


def tokenize(folder: str | Path, text: str) -> list[int]:
    """The tokens of a whole text by the folder's tokenizer.json, with the special tokens that it adds.

    Truncation, padding and dropout of merges, which a tokenizer.json may have kept from training, are left out. Needs
    the extra `hub`; raises InputError without it, for a file that is no tokenizer and for a text that is not Unicode.
    """
    try:
        from tokenizers import Tokenizer  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f'tokenize needs tokenizers: pip install "svtheory[hub]" ({error})') from error
    path = Path(folder) / "tokenizer.json"
    try:
        saved = read_text(path)
        tokenizer = Tokenizer.from_str(saved)
    except InputError:
        raise
    except Exception as error:  # tokenizers raises nothing more special
        raise InputError(f"tokenizer.json must be a tokenizer's file, got {str(path)!r}: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if hasattr(tokenizer.model, "dropout"):
        tokenizer.model.dropout = None
    try:
        return tokenizer.encode(text).ids
    except (TypeError, UnicodeError) as error:
        raise InputError(f"text must be Unicode text, got {text!r:.60}: {error}") from error
