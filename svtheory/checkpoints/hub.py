"""The hub: checkpoints and dictionaries fetched by name and revision, where there is a network."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from svtheory.checkpoints.dictionaries import CONFIGS, SUFFIXES, WEIGHTS, config_folders, refuse_pickle
from svtheory.checks import InputError

# an adapter's config too: a model with one is refused
FILES = ("config.json", "tokenizer.json", "*.safetensors", "*.safetensors.index.json", "adapter_config.json")
PREFIX = "hf:"
"""What a name of the hub begins with, where a file or folder could stand: hf:ORG/MODEL@REVISION."""
NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)((?:/[^/@]+)*)(?:@([^@]+))?")


def fetch(name: str, revision: str = "main") -> Path:
    """The folder of a model of the Hugging Face hub, say EleutherAI/pythia-160m at revision step512.

    Downloaded unless it is there, only config, tokenizer and safetensors files of the folder itself. Needs the extra
    `hub`; raises InputError without it, and for a name or revision that cannot be had.
    """
    # patterns know no folders: * stands for / too
    return _fetched(name, revision, FILES, ("*/*",))


def fetch_named(source: str) -> Path:
    """The folder of a model named hf:ORG/MODEL@REVISION, or hf:ORG/MODEL for its main revision; see `fetch`.

    Raises InputError for a name of another form too.
    """
    name, inside, revision = _parts(source)
    if inside:
        raise InputError(f"a model of the hub must be named hf:ORG/MODEL@REVISION, got {source!r}")
    return fetch(name, revision)


def fetch_dictionary(source: str) -> Path:
    """The file or folder of a dictionary named hf:ORG/REPO/PATH@REVISION, the PATH within the repository.

    Only weights that `read_dictionary` reads and the configs beside them are downloaded. Raises InputError as `fetch`
    does, and for a name of another form, a pickle, or a PATH that is not there.
    """
    name, inside, revision = _parts(source)
    path = PurePosixPath(inside.strip("/"))
    refuse_pickle(path, source)
    wanted = [path / file for file in (*WEIGHTS, *CONFIGS)]
    if path.suffix in SUFFIXES:
        wanted = [path, *(folder / file for folder in config_folders(path) for file in CONFIGS)]
    found = _fetched(name, revision, list(map(str, wanted))) / path
    if not found.exists():
        raise InputError(f"the hub must have {str(path)!r} in {name!r} at revision {revision!r}, got nothing there")
    return found


def _parts(source: str) -> tuple[str, str, str]:
    """Name, path within the repository and revision."""
    found = NAME.fullmatch(source)
    if found is None:
        raise InputError(f"a name of the hub must be hf:ORG/NAME@REVISION, got {source!r}")
    return found[1], found[2], found[3] or "main"


def _fetched(name: str, revision: str, patterns: Sequence[str], ignored: Sequence[str] = ()) -> Path:
    try:
        from huggingface_hub import errors, snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f'fetch needs huggingface_hub: pip install "svtheory[hub]" ({error})') from error
    try:
        found = snapshot_download(
            name, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(ignored) or None
        )
    except (OSError, ValueError, errors.HfHubHTTPError, errors.HFValidationError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"the hub must have {name!r} at revision {revision!r}, got: {reason}") from error
    return Path(found)
