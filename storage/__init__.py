"""The lake: values, sites, caches, artifacts. NumPy in and out; neither torch nor ray.

from storage import Lake
acts = Lake("./lake").cache("gpt2.wiki").site("resid.6")
for x_BD in acts.shuffled(batch=4096, seed=0): ...
"""

from storage.artifact import Artifact
from storage.cache import Cache
from storage.errors import GarnerError, InputError, RunError
from storage.lake import Lake
from storage.shuffle import Position
from storage.site import Site

__all__ = ["Artifact", "Cache", "GarnerError", "InputError", "Lake", "Position", "RunError", "Site"]
