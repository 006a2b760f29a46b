"""Recipes: the TOML file that says what should exist, decoded strictly. Imports no torch, ray or transformers."""

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from pipeline import corpus
from pipeline.prices import PriceTable
from pipeline.schedule import ScheduleTable
from storage.advice import suggestion
from storage.dtype import DtypeName, FloatName
from storage.errors import InputError
from storage.layout import UNIT_ROWS, Compress, check_unit
from storage.site import Site
from storage.value import Value, checked_name, convert

Positive = Annotated[int, msgspec.Meta(ge=1)]
Natural = Annotated[int, msgspec.Meta(ge=0)]


class ModelTable(Value):
    """`[models.<name>]`"""

    name: str
    """Hub id, or a local folder (relative to the recipe)."""
    revision: str | None = None
    """Commit, tag or branch of a hub id."""
    dtype: FloatName = "float32"
    """Number type of weights and arithmetic."""


class CacheTable(Value):
    """`[caches.<name>]`"""

    model: str
    """A name under [models]."""
    corpus: str
    """A name under [corpora]."""
    sites: tuple[Site, ...]
    """Where hidden states are read; adding one later harvests that one alone."""
    context: Positive | None = None
    """Most tokens of a sequence; the model's own limit if not given."""
    sets: dict[str, tuple[str | int, ...]] = {}
    """Tokens whose logits the site `logits.<set>` holds, in order: texts that are exactly one token each, or ids."""
    tokenise: dict[str, Any] = {}
    """How documents become sequences: `kind` (documents, packed, chat, ids, patches, entries) and its options."""
    dtype: DtypeName = "bfloat16"
    """Stored number type."""
    unit: Positive = UNIT_ROWS
    """Rows that one task owns, a power of two; smaller means more and shorter tasks."""
    shard: Positive | None = None
    """Most MiB of a shard before it is compressed, what is written and held in memory at once; 64 if not given."""
    compress: Compress = "none"
    """zstd makes shards smaller that cross a slow link; raw ones are mapped, and read by byte range."""
    nonfinite: bool = False
    """Keep rows with NaN or infinity instead of ending the run."""

    def __post_init__(self) -> None:
        check_unit(self.unit)
        if not self.sites:
            raise ValueError('sites is empty: name at least one, for instance sites = ["resid.3"]')
        if len(set(self.sites)) < len(self.sites):
            raise ValueError(f"sites must differ, found {', '.join(map(str, self.sites))}")
        for site in self.sites:
            if site.kind == "logits" and not self.sets.get(site.path):
                raise ValueError(f"site {site} needs its tokens: {_lacking_set(site.path, self.sets)}")


def _check_gpus(gpus: float) -> None:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(f"gpus is a share of one GPU, or a whole number of them, found {gpus}")


class Group(Value):
    """`[[pool.groups]]`: workers of one kind, where machines differ."""

    workers: Natural = 0
    """Actors at once; 0 means as many as the cluster has room for."""
    gpus: Annotated[float, msgspec.Meta(ge=0)] = 0
    """GPUs per actor, as for the pool."""
    accelerator: str | None = None
    """Ray's name of the GPU type, such as A100 or L4."""
    labels: dict[str, str] = {}
    """Labels that a node must have, such as market = "spot"."""
    batch_tokens: Positive | None = None
    """Most tokens of one forward pass here; the pool's if not given."""

    def __post_init__(self) -> None:
        _check_gpus(self.gpus)


class PoolTable(Value):
    """`[pool]`: where tasks run; never part of any identity."""

    kind: Literal["ray", "local"] = "ray"
    """Ray actors, or this process one task after the other."""
    address: str = "local"
    """Ray address: "local" starts one for this run, "auto" or host:port joins a cluster."""
    workers: Natural = 0
    """Actors at once; 0 means one per GPU asked for, or one per CPU."""
    gpus: Annotated[float, msgspec.Meta(ge=0)] = 0
    """GPUs per actor: a share of one, or whole ones, over which a model of several is spread; 0 runs on CPU."""
    groups: tuple[Group, ...] = ()
    """Workers of several kinds, in place of `workers` and `gpus`."""
    cpu_fallback: bool = False
    """Whether to run on CPU, with a warning, where no GPU is to be had, instead of refusing or waiting."""
    timeout: Positive = 7200
    """Seconds after which a unit is taken from its worker, which is ended, and given to another."""
    batch_tokens: Positive = 8192
    """Most tokens of one forward pass, padding included."""
    together: Positive = 8
    """Studies of a sweep that one worker trains from one read of the cache, at most; they share its memory."""
    mirror: str | None = None
    """Folder of each machine in which jobs keep what they read of a remote lake; without it they fetch it each time."""

    def __post_init__(self) -> None:
        _check_gpus(self.gpus)
        if self.groups and (self.workers or self.gpus):
            raise ValueError("pool has groups, which say workers and gpus for themselves: drop one or the other")
        if self.groups and self.kind == "local":
            raise ValueError('pool.groups need kind = "ray": a local pool is this process alone')


class Recipe(Value):
    """What should exist."""

    lake: str
    """Root URL of caches and artifacts."""
    models: dict[str, ModelTable] = {}
    corpora: dict[str, dict[str, Any]] = {}
    caches: dict[str, CacheTable] = {}
    jobs: dict[str, dict[str, Any]] = {}
    pool: PoolTable = PoolTable()
    schedule: ScheduleTable | None = None
    """When `garner nightly` runs it."""
    prices: PriceTable | None = None
    """What machines and storage cost, for what plans and records say."""


class Opened(Value):
    """A recipe with the folder that its relative paths start from."""

    recipe: Recipe
    base: str
    """Absolute folder of the recipe file."""
    title: str
    """The file's stem."""
    corpora: dict[str, corpus.Corpus]
    """In canonical form."""

    @property
    def lake(self) -> str:
        """The lake's URL, made absolute."""
        return self.recipe.lake if "://" in self.recipe.lake else str((Path(self.base) / self.recipe.lake).resolve())

    @property
    def mirror(self) -> str | None:
        """Where jobs keep what they read of a remote lake, made absolute; None where they do not."""
        folder = self.recipe.pool.mirror
        return None if folder is None else str((Path(self.base) / Path(folder).expanduser()).resolve())


def read(path: str, settings: Sequence[str] = ()) -> Opened:
    """The recipe at `path` with `a.b=c` settings applied; `InputError` names the field that is wrong."""
    file = Path(path)
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise InputError(f"there is no recipe {path}: {_near(file)}; name a file") from error
    except PermissionError as error:
        raise InputError(f"no permission to read the recipe {path}: make it readable") from error
    except UnicodeDecodeError as error:
        raise InputError(f"recipe {path} is not UTF-8 ({error}): save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"recipe {path} is not TOML: {error}; correct that line") from error
    for setting in settings:
        table = assign(table, setting)
    return opened(table, str(file.resolve().parent), file.stem)


def opened(table: Mapping[str, Any], base: str, title: str) -> Opened:
    """A recipe from its decoded table; names are checked, corpora decoded and references resolved."""
    _decode_tables(table)
    recipe = convert(table, Recipe, "recipe")
    for kind in ("models", "corpora", "caches", "jobs"):
        for name in getattr(recipe, kind):
            checked_name(name, f"[{kind}.{name}]")
    corpora = {name: corpus.source(corpus.decode(one, f"corpora.{name}"), base) for name, one in recipe.corpora.items()}
    for name, cache in recipe.caches.items():
        _require(cache.model, recipe.models, f"caches.{name}.model", "models")
        _require(cache.corpus, recipe.corpora, f"caches.{name}.corpus", "corpora")
    return Opened(recipe=recipe, base=base, title=title, corpora=corpora)


def _decode_tables(table: Mapping[str, Any]) -> None:
    """Decodes every table by itself, for of an error in the whole msgspec does not say the table's name."""
    kinds: Mapping[str, Any] = {
        "models": ModelTable,
        "corpora": dict[str, Any],
        "caches": CacheTable,
        "jobs": dict[str, Any],
    }
    for kind, shape in kinds.items():
        named = table.get(kind, {})
        for name, one in named.items() if isinstance(named, Mapping) else ():
            convert(one, shape, f"{kind}.{name}")
    for name, one in (("pool", PoolTable), ("schedule", ScheduleTable), ("prices", PriceTable)):
        if name in table:
            convert(table[name], one, name)


def assign(table: Mapping[str, Any], setting: str) -> dict[str, Any]:
    """A copy of `table` with `a.b=c` set; c is a TOML value, or else a plain string."""
    path, equals, text = setting.partition("=")
    if not equals or not path.strip():
        raise InputError(f"--set {setting!r}: write it as path.to.field=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    return _assigned(table, path.strip().split("."), value, setting)


def expand(jobs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Job tables without `sweep`: one for every combination of its values, named `name[field=value,...]`."""
    expanded: dict[str, dict[str, Any]] = {}
    for name, table in jobs.items():
        sweep = table.get("sweep", {})
        plain = {key: value for key, value in table.items() if key != "sweep"}
        _check_sweep(sweep, f"jobs.{name}.sweep")
        for values in itertools.product(*sweep.values()):
            chosen = dict(zip(sweep, values, strict=True))
            one: dict[str, Any] = plain
            for path, value in chosen.items():
                one = _assigned(one, path.split("."), value, f"jobs.{name}.sweep")
            suffix = ",".join(f"{path}={value}" for path, value in chosen.items())
            expanded[f"{name}[{suffix}]" if suffix else name] = one
    return expanded


def _check_sweep(sweep: object, where: str) -> None:
    if not isinstance(sweep, dict) or not all(isinstance(values, list) and values for values in sweep.values()):
        raise InputError(f"{where}: each field takes a list of values, for instance seed = [0, 1]; found {sweep!r}")


def _assigned(table: Mapping[str, Any], path: Sequence[str], value: object, setting: str) -> dict[str, Any]:
    first, *rest = path
    if not rest:
        return {**table, first: value}
    inner = table.get(first, {})
    if not isinstance(inner, Mapping):
        raise InputError(f"{setting}: {first} is {inner!r}, which has no fields")
    return {**table, first: _assigned(inner, rest, value, setting)}


def _lacking_set(name: str, sets: Mapping[str, object]) -> str:
    if name in sets:
        return f'sets.{name} is empty: write at least one, for instance {name} = [" yes", " no"]'
    return f'of sets {suggestion(name, sets)}; declare {name} = [" yes", " no"] under sets, or name one of these'


def _require(name: str, there: Mapping[str, object], where: str, kind: str) -> None:
    if name not in there:
        raise InputError(f"{where} = {name!r}: there is no [{kind}.{name}]; {suggestion(name, there)}")


def _near(file: Path) -> str:
    folder = file if file.is_dir() else file.parent
    there = sorted(one.name for one in folder.glob("*.toml")) if folder.is_dir() else []
    return f"{folder} holds {', '.join(there) or 'no .toml file'}"
