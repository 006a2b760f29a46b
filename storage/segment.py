"""One segment of a cache: claim its files, index its tokens, plan its rows, mark its units, seal its sites.

The order is the safety: data before marks, marks before the seal, everything created once. Any process may be
killed anywhere, and whoever comes next finishes what is there.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from storage.dtype import BLOCK, DtypeName, fill, stored
from storage.errors import RunError
from storage.layout import Layout, layout, rows_per_unit
from storage.manifest import SCHEMA, Claim, Mark, Part, Plan, Seal
from storage.moments import merge
from storage.shard import LEVEL, checksum, key
from storage.site import Site, known_sites
from storage.tokens import read_part_counts
from storage.url import Folder
from storage.value import decode_signed, signed

T = TypeVar("T")


class _Attributes(msgspec.Struct):
    logical_dtype: Literal["bfloat16", "float16", "float32"]
    encoding: str
    d: int = 0


class _ArrayMetadata(msgspec.Struct):
    """What of a site's zarr.json tells its layout."""

    shape: tuple[int, Annotated[int, msgspec.Meta(gt=0)]]
    attributes: _Attributes


class Segment:
    """A segment's folder and what its records say."""

    def __init__(self, folder: Folder, number: int) -> None:
        self.folder = folder
        self.number = number

    def claim(self, wanted: Claim) -> Claim:
        """Take the files; if another driver was first, its claim is the one to finish."""
        self.folder.create("files.json", signed(wanted))
        return self.claimed

    @cached_property
    def claimed(self) -> Claim:
        """The files this segment takes."""
        return self._record("files.json", Claim)

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
        (self.folder / "tokens").settle()
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
            shard_bytes=self.claimed.shard_bytes,
            compress=self.claimed.compress,
        )
        self.folder.create("plan.json", signed(plan))
        return self.plan

    @cached_property
    def plan(self) -> Plan:
        """The plan, which never changes once it is there."""
        return self._record("plan.json", Plan)

    def array(self, site: Site) -> Folder:
        """The folder of the site's Zarr array."""
        return self.folder / "sites" / str(site)

    def layout(self, d: int, dtype: DtypeName) -> Layout:
        """How a site of width `d` lies in this segment."""
        plan = self.plan
        return layout(plan.rows, d, dtype, plan.rows_per_unit, plan.shard_bytes, plan.compress)

    def create_array(self, site: Site, shape: Layout) -> None:
        """Write the Zarr metadata of a site, as zarr-python itself writes it."""
        self.folder.settle()  # another driver may have made the plan
        (self.folder / "sites").create("zarr.json", group_metadata())
        self.array(site).create("zarr.json", array_metadata(shape))

    def described(self, site: Site) -> Layout | None:
        """The layout that a site's zarr.json says; None if it is not there, or not to the byte what we write."""
        data = self.array(site).find("zarr.json")
        try:
            metadata = msgspec.json.decode(data or b"", type=_ArrayMetadata)
            said = metadata.attributes
            shape = self.layout(said.d or metadata.shape[1], "int8" if said.encoding == "int8" else said.logical_dtype)
        except msgspec.MsgspecError:
            return None
        return shape if array_metadata(shape) == data else None

    def units_done(self, site: Site) -> frozenset[int]:
        """Units that have a mark."""
        names = self.folder.names(f"done/{site}")
        return frozenset(int(name.removesuffix(".json")) for name in names if name.endswith(".json"))

    def mark(self, site: Site, mark: Mark) -> None:
        """Say that a unit's shards are whole; the first mark stands."""
        self.folder.create(mark_name(site, mark.unit), signed(mark))

    def marks(self, site: Site) -> tuple[Mark, ...]:
        """All marks in the order of their units; `RunError` names the units that lack one."""
        missing = sorted(set(range(self.plan.n_units)) - self.units_done(site))
        if missing:
            raise RunError(
                f"{self.folder}: {site} lacks units {missing[:10]} of {self.plan.n_units}; run the recipe again"
            )
        return tuple(self.read_mark(site, unit) for unit in range(self.plan.n_units))

    def read_mark(self, site: Site, unit: int) -> Mark:
        """The mark of a unit that is done."""
        return self._record(mark_name(site, unit), Mark)

    def seal(self, site: Site, shape: Layout) -> Seal:
        """Fold the marks and make the site readable."""
        (self.folder / f"done/{site}").settle()
        marks = self.marks(site)
        self._check_shards(site, marks)
        if self.described(site) != shape:
            raise RunError(
                f"{self.array(site) / 'zarr.json'} is not the metadata of this array: it was damaged, or written by "
                "another zarr; remove it and run again"
            )
        seal = Seal(
            site=str(site),
            layout=shape,
            metadata=checksum(self.array(site).read("zarr.json")),
            moments=merge(mark.moments for mark in marks),
            shards=tuple(shard for mark in marks for shard in mark.shards),
        )
        _check(seal, self.plan, str(self.folder))
        self.folder.create(seal_name(site), signed(seal))
        return seal

    def _check_shards(self, site: Site, marks: Sequence[Mark]) -> None:
        """A repair that was killed may have taken a shard away, and not its mark yet."""
        there = frozenset(self.array(site).names())
        lost = [key(shard.shard) for mark in marks for shard in mark.shards if key(shard.shard) not in there]
        if lost:
            raise RunError(
                f"{self.array(site)} lacks {', '.join(lost)}, which marks vouch for: `garner repair` it, and run again"
            )

    @cached_property
    def sealed(self) -> frozenset[Site]:
        """Sites that can be read."""
        names = [name.removesuffix(".json") for name in self.folder.names("sealed") if name.endswith(".json")]
        return frozenset(known_sites(names))

    def read_seal(self, site: Site) -> Seal:
        """The seal of a readable site."""
        return self._record(seal_name(site), Seal)

    def _record(self, name: str, kind: type[T]) -> T:
        data = self.folder.find(name)
        if data is None:
            raise RunError(f"{self.folder / name} is lost; `garner verify` says what else is")
        return decode_signed(data, kind, str(self.folder / name))


def part_name(part: int) -> str:
    """The object of a token part, relative to its segment."""
    return f"tokens/part-{part:05d}.parquet"


def mark_name(site: Site, unit: int) -> str:
    """The object of a unit's mark, relative to its segment."""
    return f"done/{site}/{unit:05d}.json"


def seal_name(site: Site) -> str:
    """The object of a site's seal, relative to its segment."""
    return f"sealed/{site}.json"


def array_metadata(shape: Layout) -> bytes:
    """`zarr.json` of one site: sharded, little-endian rows, index at the end."""
    import zarr
    from zarr.codecs import BytesCodec, ShardingCodec, ZstdCodec
    from zarr.storage import MemoryStore

    codecs: list[Any] = [BytesCodec(), *([ZstdCodec(level=LEVEL)] if shape.compress == "zstd" else [])]
    store = MemoryStore()
    zarr.create_array(
        store,
        shape=(shape.rows, shape.width),
        dtype=stored(shape.dtype),
        chunks=(shape.rows_per_shard, shape.width),
        serializer=ShardingCodec(chunk_shape=(shape.rows_per_chunk, shape.width), codecs=codecs),
        compressors=None,
        filters=None,
        fill_value=fill(shape.dtype),
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes=_attributes(shape),
        zarr_format=3,
    )
    return store._store_dict["zarr.json"].to_bytes()


def _attributes(shape: Layout) -> dict[str, Any]:
    match shape.dtype:
        case "int8":
            return {"logical_dtype": "float32", "encoding": "int8", "d": shape.d, "block": BLOCK}
        case "bfloat16":
            return {"logical_dtype": "bfloat16", "encoding": "bits"}
        case _:
            return {"logical_dtype": shape.dtype, "encoding": "native"}


def group_metadata() -> bytes:
    """`sites/zarr.json`."""
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
