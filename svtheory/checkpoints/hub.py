"""The hub: a checkpoint fetched by its name and revision, where there is a network."""

from pathlib import Path

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
