import json
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import xarray as xr

from sims.__main__ import experiments, main
from sims.lab import gallery
from svtheory.reports import runs
from svtheory.reports.plotting import panels
from svtheory.reports.runs import Exhibit, Outcome

REAL_HEADS = {"heads", "sad", "sad_toy", "sad_training", "explain", "conditions", "align"}
STATISTICS = {"calibration"}
TRANSFORMERS = {"transformer_align", "transformer_training", "ablate", "causes", "contexts", "share", "writers"}


@pytest.fixture
def small(monkeypatch):
    """Two experiments that finish at once and count how often they ran."""
    ran = []

    def made(name):
        def run(argv):
            ran.append(name)
            out = Path(argv[argv.index("--out") + 1])
            exhibit = Exhibit(panels()[0], f"what {name} shows")
            with runs.started(out / name, name, gallery.Config(), f"python -m sims {name}") as folder:
                runs.finish(folder, Outcome({"answer": 42}, xr.Dataset(), {"curve": exhibit}, []), 1.0)

        scales = dict.fromkeys(("quick", "paper", "full"), gallery.Config())
        return SimpleNamespace(__doc__=f"Title of {name}.\n\nIts text.", SCALES=scales, main=run)

    for name in ("one", "two"):
        monkeypatch.setitem(sys.modules, f"sims.{name}", made(name))
    monkeypatch.setattr(gallery, "EXPERIMENTS", ("one", "two"))
    return ran


def test_all_writes_one_page_and_continues(tmp_path, small, capsys):
    main(["all", "--scale", "quick", "--out", str(tmp_path)])
    page = (tmp_path / "gallery.html").read_text()
    for words in ("Title of one.", "Its text.", "what two shows", "answer", "python -m sims two", "one/report.html"):
        assert words in page
    assert page.count("data:image/png;base64,") == 2
    assert str(tmp_path / "gallery.html") in capsys.readouterr().out
    manifest = json.loads((tmp_path / "two" / "manifest.json").read_text())
    (tmp_path / "two" / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    main(["all", "--out", str(tmp_path)])
    assert small == ["one", "two", "two"]


HOSTILE = """</pre><script>alert('&')</script>"><img src=x onerror="alert(1)">"""


def test_what_manifests_and_summaries_hold_is_text(tmp_path, small):
    main(["all", "--out", str(tmp_path)])
    folder = tmp_path / "two"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["captions"]) == {"curve"}
    texts = {key: HOSTILE for key in manifest if key not in ("status", "config", "captions")}
    changed = manifest | texts | {"captions": {"curve": HOSTILE}}
    (folder / "manifest.json").write_text(json.dumps(changed))
    (folder / "summary.json").write_text(json.dumps({HOSTILE: HOSTILE, "list": [HOSTILE]}))
    plain, page = (tmp_path / "gallery.html").read_text(), gallery.gallery(tmp_path)
    assert page.count("alert(1)") == 7  # command, time, caption twice, a name and two values
    assert Counter(tags(plain)) + Counter({"tr": 1, "td": 2}) == Counter(tags(page))


def tags(page):
    """All elements with the names of their attributes, as a browser's parser sees them."""
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append(
        tag + "".join(f" {name}" for name, _ in attributes if name != "class")
    )
    parser.feed(page)
    return found


def test_wrong_scales_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["all", "--scale", "huge", "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert "--scale must be one of quick, paper, full, got 'huge'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_experiment_on_toys_is_in_the_gallery():
    assert set(gallery.EXPERIMENTS) == set(experiments()) - REAL_HEADS - TRANSFORMERS - STATISTICS
