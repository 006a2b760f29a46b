"""One page that shows features to people: opens from disk, asks for nothing, and runs no script but its own.

What stands in a corpus is hostile: it reaches the page as JSON in which `<`, `>`, `&` and `'` are escaped, the script
puts it there as text and never as markup, and the page's policy lets no other script run and no request leave.
"""

import base64
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jobs.sae.contexts import N_BANDS, edges
from jobs.sae.detectors import Detector
from jobs.sae.examples import STRONGEST, Example
from jobs.sae.features import Purity
from jobs.sae.neighbours import Near
from jobs.sae.portraits import Portraits, grams, ngram, promoted, suppressed
from jobs.sae.windows import shown_tokens

MOST = 512
"""Features on a page: up to 25 kB each, so that it stays under 13 MB."""


def page(portraits: Portraits, title: str, density_F: np.ndarray, pure: Purity) -> str:
    """The chosen features as HTML, the first `MOST` of them."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("jobs.sae", "."), autoescape=True)
    environment.filters["digest"] = _digest
    shown = list(portraits.chosen)[:MOST]
    data = {
        "edges": [_short(edge) for edge in edges()],
        "last_band": N_BANDS - 1,
        "features": _features(portraits, shown, density_F, pure),
    }
    alive = int((density_F > 0).sum())
    return environment.get_template("features.html.jinja").render(
        title=title, width=len(density_F), alive=alive, chosen=len(portraits.chosen), shown=len(shown), data=data
    )


def _digest(script: str) -> str:
    """The hash by which a policy allows a script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _features(portraits: Portraits, shown: list[int], density_F: np.ndarray, pure: Purity) -> list[dict[str, Any]]:
    shares = dict(zip(pure.features_F.tolist(), pure.shares_F.tolist(), strict=True))
    judged = portraits.judged
    scores = zip(judged.explanations, judged.accuracy_M.tolist(), judged.null_M.tolist(), strict=True)
    said = dict(zip(judged.features_M.tolist(), scores, strict=True))
    up, down = promoted(portraits), suppressed(portraits)
    return [
        {
            "feature": feature,
            "why": portraits.chosen[feature],
            "density": _short(density_F[feature]),
            "purity": _short(shares.get(feature)),
            "bins": portraits.observed.bands.counts_FH[feature].tolist(),
            "angle": _near(portraits.angle, feature),
            "firing": _near(portraits.firing, place),
            "promoted": [(token, _short(effect)) for token, effect in up.get(feature, ())],
            "suppressed": [(token, _short(effect)) for token, effect in down.get(feature, ())],
            "judged": _judged(said.get(feature)),
            "examples": [_example(one) for one in portraits.examples.of[feature]],
        }
        | _strongest(portraits, feature)
        | _detectors(portraits, feature)
        for place, feature in enumerate(shown)
    ]


def _strongest(portraits: Portraits, feature: int) -> dict[str, Any]:
    rows, values = portraits.observed.leaders.of(feature)
    token = shown_tokens(portraits.observed.tokens, rows[:1])
    return {"max": _short(values[0] if len(values) else 0), "token": token[0] if token else ""}


def _detectors(portraits: Portraits, feature: int) -> dict[str, Any]:
    """What tells where the feature fires; nothing where it fires too rarely."""
    detectors, tokens = portraits.detectors, portraits.observed.tokens
    chosen = detectors.ngrams[detectors.best_F[feature]]
    if np.isnan(detectors.token_set.f1_F[feature]):
        return {"set": None, "ngram": None}
    return {
        "set": _f1(detectors.token_set, feature)
        | {"members": grams(detectors.token_set, feature, tokens), "size": int(detectors.token_set.sizes_F[feature])},
        "ngram": _f1(chosen, feature) | {"text": ngram(detectors, feature, tokens), "length": chosen.length},
    }


def _f1(detector: Detector, feature: int) -> dict[str, Any]:
    return {"f1": _short(detector.f1_F[feature]), "null": _short(detector.null_F[feature])}


def _near(near: Near, place: int) -> list[tuple[int, float | None]]:
    pairs = zip(near.features_MK[place].tolist(), near.closeness_MK[place].tolist(), strict=True)
    return [(feature, _short(closeness)) for feature, closeness in pairs if feature >= 0]


def _judged(found: tuple[str, float, float] | None) -> Mapping[str, Any] | None:
    if found is None:
        return None
    return {"said": found[0], "accuracy": _short(found[1]), "null": _short(found[2])}


def _example(one: Example) -> dict[str, Any]:
    return {
        "band": None if one.band == STRONGEST else one.band,
        "activation": _short(one.activation),
        "quantile": _short(one.quantile),
        "document": one.document,
        "at": one.at,
        "tokens": one.excerpt.tokens,
        "activations": [_short(value) for value in one.excerpt.activations],
    }


def _short(value: float | None) -> float | None:
    """Three digits; JSON knows no NaN."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.3g}")
