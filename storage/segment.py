"""One segment of a cache: claim its files, index its tokens, plan its rows, mark its units, seal its sites.

The order is the safety: data before marks, marks before the seal, everything created once. Any process may be
killed anywhere, and whoever comes next finishes what is there.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import msgspec

from storage.dtype import DtypeName, fill, logical, stored
from storage.errors import RunError
from storage.layout import Layout, layout, rows_per_unit
from storage.manifest import SCHEMA, Claim, Mark, Part, Plan, Seal
from storage.moments import merge
from storage.site import Site
from storage.tokens import read_part_counts
from storage.url import Folder
from storage.value import canonical, decode


class Segment:
    """A segment's folder and what its records say."""

    def __init__(self, folder: Folder, number: int) -> None:
        self.folder = folder
        self.number = number

    def claim(self, wanted: Claim) -> Claim:
        """Take the files; if another driver was first, its claim is the one to finish."""
        self.folder.create("files.json", canonical(wanted))
        return self.claimed

    @cached_property
    def claimed(self) -> Claim:
        """The files this segment takes."""
        return decode(self.folder.read("files.json"), Claim, str(self.folder / "files.json"))

    @property
    def planned(self) -> bool:
        """Whether the tokens are indexed and the rows have their numbers."""
        return self.folder.exists("plan.json")

    def parts_done(self) -> frozenset[int]:
        """Token parts that are there."""
        names = self.folder.names("tokens")
        return frozenset(n for n in range(len(self.claimed.parts)) if part_name(n).removeprefix("tokens/") in names)

    def fix(self) -> Plan:
        """Number the rows, once every token part is there."""
        parts = tuple(_numbered([read_part_counts(self.folder, part_name(n)) for n in range(len(self.claimed.parts))]))
        longest = max(part.longest for part in parts)
        plan = Plan(
            schema=SCHEMA,
            files=self.claimed.files,
            parts=parts,
            rows=sum(part.rows for part in parts),
            sequences=sum(part.sequences for part in parts),
            documents=sum(part.documents for part in parts),
            longest=longest,
            rows_per_unit=rows_per_unit(longest, self.claimed.unit),
        )
        self.folder.create("plan.json", canonical(plan))
        return self.plan

    @cached_property
    def plan(self) -> Plan:
        """The plan, which never changes once it is there."""
        return decode(self.folder.read("plan.json"), Plan, str(self.folder / "plan.json"))

    def array(self, site: Site) -> Folder:
        """The folder of the site's Zarr array."""
        return self.folder / "sites" / str(site)

    def layout(self, d: int, dtype: DtypeName) -> Layout:
        """How a site of width `d` lies in this segment."""
        return layout(self.plan.rows, d, dtype, self.plan.rows_per_unit)

    def create_array(self, site: Site, shape: Layout) -> None:
        """Write the Zarr metadata of a site, as zarr-python itself writes it."""
        (self.folder / "sites").create("zarr.json", _group_metadata())
        self.array(site).create("zarr.json", array_metadata(shape))

    def units_done(self, site: Site) -> frozenset[int]:
        """Units that have a mark."""
        names = self.folder.names(f"done/{site}")
        return frozenset(int(name.removesuffix(".json")) for name in names if name.endswith(".json"))

    def mark(self, site: Site, mark: Mark) -> None:
        """Say that a unit's shards are whole; the first mark stands."""
        self.folder.create(mark_name(site, mark.unit), canonical(mark))

    def marks(self, site: Site) -> tuple[Mark, ...]:
        """All marks in the order of their units; `RunError` names the units that lack one."""
        missing = sorted(set(range(self.plan.n_units)) - self.units_done(site))
        if missing:
            raise RunError(
                f"{self.folder}: {site} lacks units {missing[:10]} of {self.plan.n_units}; run the recipe again"
            )
        names = [mark_name(site, unit) for unit in range(self.plan.n_units)]
        return tuple(decode(self.folder.read(name), Mark, str(self.folder / name)) for name in names)

    def seal(self, site: Site, shape: Layout) -> Seal:
        """Fold the marks and make the site readable."""
        marks = self.marks(site)
        seal = Seal(
            site=str(site),
            layout=shape,
            moments=merge(mark.moments for mark in marks),
            shards=tuple(shard for mark in marks for shard in mark.shards),
        )
        _check(seal, self.plan, str(self.folder))
        self.folder.create(f"sealed/{site}.json", canonical(seal))
        return seal

    @cached_property
    def sealed(self) -> frozenset[Site]:
        """Sites that can be read."""
        names = self.folder.names("sealed")
        return frozenset(Site.parse(name.removesuffix(".json")) for name in names if name.endswith(".json"))

    def read_seal(self, site: Site) -> Seal:
        """The seal of a readable site."""
        name = f"sealed/{site}.json"
        return decode(self.folder.read(name), Seal, str(self.folder / name))


def part_name(part: int) -> str:
    """The object of a token part, relative to its segment."""
    return f"tokens/part-{part:05d}.parquet"


def mark_name(site: Site, unit: int) -> str:
    """The object of a unit's mark, relative to its segment."""
    return f"done/{site}/{unit:05d}.json"


def array_metadata(shape: Layout) -> bytes:
    """`zarr.json` of one site: sharded, raw little-endian rows, index at the end."""
    import zarr
    from zarr.codecs import BytesCodec, ShardingCodec
    from zarr.storage import MemoryStore

    store = MemoryStore()
    zarr.create_array(
        store,
        shape=(shape.rows, shape.d),
        dtype=stored(shape.dtype),
        chunks=(shape.rows_per_shard, shape.d),
        serializer=ShardingCodec(chunk_shape=(shape.rows_per_chunk, shape.d), codecs=[BytesCodec()]),
        compressors=None,
        filters=None,
        fill_value=fill(shape.dtype),
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes={
            "logical_dtype": shape.dtype,
            "encoding": "bits" if shape.dtype == "bfloat16" else "native",
        },
        zarr_format=3,
    )
    assert logical(shape.dtype).itemsize == stored(shape.dtype).itemsize
    return store._store_dict["zarr.json"].to_bytes()


def _group_metadata() -> bytes:
    return msgspec.json.encode({"attributes": {}, "zarr_format": 3, "node_type": "group"})


def _numbered(parts: Sequence[Part]) -> list[Part]:
    """The parts with their first row, sequence and document."""
    rows = accumulate((part.rows for part in parts), initial=0)
    sequences = accumulate((part.sequences for part in parts), initial=0)
    documents = accumulate((part.documents for part in parts), initial=0)
    return [
        msgspec.structs.replace(part, first_row=row, first_sequence=sequence, first_document=document)
        for part, row, sequence, document in zip(parts, rows, sequences, documents, strict=False)
    ]


def _check(seal: Seal, plan: Plan, where: str) -> None:
    rows = seal.moments.count + seal.moments.nonfinite
    shards = [mark.shard for mark in seal.shards]
    if rows != plan.rows or shards != list(range(seal.layout.n_shards)):
        raise RunError(
            f"{where}: the marks of {seal.site} hold {rows} rows in {len(shards)} shards where the plan has "
            f"{plan.rows} in {seal.layout.n_shards}; the folder was changed by hand: remove it and run again"
        )
