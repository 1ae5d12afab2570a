import sys
from types import ModuleType, SimpleNamespace

import pytest

from svtheory.checkpoints import fetch
from svtheory.checks import InputError


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
