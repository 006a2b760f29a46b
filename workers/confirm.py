"""Whether a model is still the one that a cache was made by."""

from storage.cache import Cache
from storage.errors import InputError
from workers.model import inspect


def confirm(cache: Cache, model: str | None) -> str:
    """Where the cache's model is; `InputError` if what is there, or at `model`, gives other numbers."""
    identity = cache.record.identity
    source = model or cache.record.made.get("model", "")
    facts = inspect(source, identity.model.revision or None)
    compared = {
        "weights": (identity.model.weights, facts.weights),
        "configuration": (identity.model.config, facts.config),
    }
    if identity.tokenisation.get("kind") == "patches":
        compared["image processor"] = (identity.tokenizer, facts.tokenizer + facts.processor)
    for what, (then, now) in compared.items():
        if then != now:
            raise InputError(
                f"cache {cache.id} was made by {what} {then[:12]}, {source} has {now[:12]}: "
                "say where the right model is with --model"
            )
    return source
