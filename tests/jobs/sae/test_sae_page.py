"""The page of features and their table: all there, nothing of a corpus breaks out, and nothing is asked for outside."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from conftest import Doc, build_cache

from jobs.sae import page as pages
from jobs.sae.codes import Dense
from jobs.sae.contexts import N_BINS
from jobs.sae.features import token_purity
from jobs.sae.interpret import TokenJudge
from jobs.sae.logit_effects import Unembedding
from jobs.sae.observed import Observed
from jobs.sae.page import page
from jobs.sae.portraits import features_table, portray, readable
from storage import Lake

HOSTILE = [
    "</script><img/src=x/onerror=alert(1)>",
    "\"'><b>bold</b>",
    "{{7*7}}",
    "<!--",
    "\u2028\u202e",
    "&lt;",
    "\\u003c",
]
WORDS = [*HOSTILE, *(f"w{n}" for n in range(30))]
CHOSEN = {n: f"label = {HOSTILE[0]}" if n == 0 else "" for n in [0, 3, 2, 1, 8]}
N = 8000


@pytest.fixture(scope="module")
def portraits():
    """200 documents of 40 words, the hostile ones among them; each of the first features speaks at one word."""
    rng = np.random.default_rng(0)
    texts = rng.choice(WORDS, (N // 40, 40))
    flat, z_NF = texts.reshape(-1), np.zeros((N, 10), np.float32)
    for feature in range(9):
        z_NF[:, feature] = (flat == WORDS[feature]) * np.exp2(rng.uniform(-2, 2, N))
    z_NF[:20, 8] = 0
    z_NF[np.flatnonzero(z_NF[:, 8])[3:], 8] = 0
    documents = [Doc(" ".join(text), key=f"{HOSTILE[1]}:{n}") for n, text in enumerate(texts)]
    tokens = build_cache(Lake("memory://page"), {"resid.0": np.zeros((N, 2), np.float32)}, [documents]).tokens
    observed = Observed(tokens, 10, 6, seed=0)
    for part in np.array_split(np.arange(N), 3):
        observed.add(part, Dense(torch.from_numpy(z_NF[part])))
    generator = torch.Generator().manual_seed(1)
    unembed = Unembedding(torch.randn(len(WORDS), 8, generator=generator), WORDS)
    atoms_FD = torch.randn(10, 8, generator=generator)

    def encode(rows):
        return Dense(torch.from_numpy(z_NF[rows]))

    found = portray(observed, CHOSEN, atoms_FD, np.arange(N), encode, unembed, TokenJudge())
    return found, (z_NF > 0).mean(0), token_purity(observed.leaders, tokens, np.arange(N), 0)


@pytest.fixture(scope="module")
def html(portraits):
    found, density_F, pure = portraits
    return page(found, f"{HOSTILE[0]} of resid.0", density_F, pure)


class Parsed(HTMLParser):
    """What a browser would find: tags with their attributes, and text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def scripts(html):
    return re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL)


def test_nothing_of_the_corpus_becomes_markup(html):
    parsed = Parsed(html)
    names = [tag for tag, _ in parsed.tags]
    assert names.count("script") == html.count("</script") == 2
    assert not {"img", "b", "link", "iframe"} & set(names)
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    assert "<!--" not in html
    assert "{{7*7}}" in scripts(html)[0]
    assert f"{HOSTILE[0]} of resid.0" in parsed.text


def test_no_request_leaves_the_page_and_no_script_runs_but_its_own(html):
    parsed = Parsed(html)
    assert not [a for _, a in parsed.tags if {"src", "href", "action"} & a.keys()]
    assert "url(" not in html
    assert "import" not in html.partition("<body>")[0]
    assert re.findall(r"https?://[^\"']+", html) == ["http://www.w3.org/2000/svg"]  # a namespace
    (policy,) = (a["content"] for _, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    _, script = scripts(html)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}';" in policy


def test_the_data_of_the_page_is_what_was_found(html, portraits):
    found, density_F, _ = portraits
    features = json.loads(scripts(html)[0])["features"]
    assert [one["feature"] for one in features] == list(CHOSEN)
    first = features[0]
    assert first["token"] == HOSTILE[0]
    assert first["why"] == CHOSEN[0]
    assert first["density"] == pytest.approx(density_F[0], rel=0.01)
    assert first["set"]["members"] == [HOSTILE[0]]
    assert first["set"]["f1"] == 1 > 2 * first["set"]["null"]
    assert first["ngram"]["text"] == HOSTILE[0]
    assert first["judged"]["accuracy"] == 1
    assert len(first["promoted"]) == len(first["suppressed"]) == 10
    assert len(first["bins"]) == N_BINS
    assert sum(first["bins"]) == round(density_F[0] * N)
    assert len(first["angle"]) == 8
    assert len(first["examples"]) == len(found.examples.of[0])
    for one in first["examples"]:
        assert one["tokens"][one["at"]].strip() == HOSTILE[0]
        assert one["activations"][one["at"]] == one["activation"] > 0
    rare = features[-1]
    assert (rare["set"], rare["ngram"], rare["judged"]) == (None, None, None)


def test_the_page_says_how_many_features_it_leaves_out(html, portraits, monkeypatch):
    assert "This page shows the 5 that were looked at closely." in html
    assert "10 features, 9 of which fire" in html
    monkeypatch.setattr(pages, "MOST", 2)
    short = page(portraits[0], "short", portraits[1], portraits[2])
    assert "This page shows the first 2 of the 5 that were looked at closely" in short
    assert [one["feature"] for one in json.loads(scripts(short)[0])["features"]] == [0, 3]


def test_the_table_has_a_line_per_feature_and_nothing_where_nothing_is_known(portraits):
    found, density_F, pure = portraits
    lines = features_table(found, density_F, pure).to_pylist()
    assert [line["feature"] for line in lines] == list(range(10))
    assert lines[2]["strongest_token"] == WORDS[2]
    assert lines[2]["token_set"] == [WORDS[2]]
    assert (lines[2]["token_set_size"], lines[2]["token_set_f1"], lines[2]["ngram_length"]) == (1, 1, 1)
    assert lines[2]["max_activation"] == found.observed.leaders.of(2)[1][0]
    assert lines[2]["detection_accuracy"] == 1
    assert lines[2]["promoted"][0] in WORDS
    assert lines[5]["token_set_f1"] == 1
    assert (lines[5]["promoted"], lines[5]["explanation"]) == (None, None)
    assert len(lines[5]["neighbours"]) == len(lines[5]["cosines"]) == 8
    assert sum(lines[5]["histogram"]) == round(density_F[5] * N)
    dead = lines[9]
    assert (dead["density"], dead["max_activation"], dead["strongest_token"]) == (0, 0, None)
    assert dead["token_set_f1"] is dead["ngram"] is dead["token_set"] is dead["token_set_size"] is None


def test_every_number_for_the_report_has_its_null_and_beats_it(portraits):
    metrics = {metric.name: metric for metric in readable(portraits[0])}
    assert list(metrics) == ["token_set_f1", "ngram_f1", "detection_accuracy", "logit_peak"]
    for name in ("token_set_f1", "ngram_f1", "detection_accuracy"):
        assert metrics[name].value == 1 > 1.5 * metrics[name].null


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser")
def test_a_browser_shows_the_features_from_disk(html, tmp_path):
    (tmp_path / "features.html").write_text(html)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    url = f"{(tmp_path / 'features.html').as_uri()}#3"
    dom = subprocess.run([*command, "--dump-dom", url], capture_output=True, text=True, check=True, timeout=120).stdout
    shown = Parsed(re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL))
    assert len([a for tag, a in shown.tags if "data-feature" in a]) == len(CHOSEN)
    assert "Feature 3 " in shown.text
    assert any(tag == "rect" for tag, _ in shown.tags)
    assert len([a for _, a in shown.tags if a.get("class") == "context"]) > 10
    assert not {"img", "b"} & {tag for tag, _ in shown.tags}
