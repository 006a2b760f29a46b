"""A store that fsspec is told of and garner has never heard of, as `gs://` and `az://` are: coroutines and objects."""

import fsspec
from fsspec.asyn import AsyncFileSystem


class Elsewhere(AsyncFileSystem):
    """Objects in this process; a condition is checked and kept without a pause, as stores do."""

    protocol = "elsewhere"
    objects: dict[str, bytes] = {}

    async def _pipe_file(self, path, value, mode="overwrite", **_):
        if mode == "create" and path in self.objects:
            raise FileExistsError(path)
        self.objects[path] = bytes(value)

    async def _cat_file(self, path, start=None, end=None, **_):
        if path not in self.objects:
            raise FileNotFoundError(path)
        return self.objects[path][start:end]

    async def _info(self, path, **_):
        if path in self.objects:
            return {"name": path, "size": len(self.objects[path]), "type": "file"}
        if any(name.startswith(f"{path}/") for name in self.objects):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    async def _ls(self, path, detail=True, **_):
        below = [name[len(path) + 1 :] for name in self.objects if name.startswith(f"{path}/")]
        found = [await self._info(f"{path}/{name}") for name in sorted({name.partition("/")[0] for name in below})]
        found = found or [await self._info(path)]
        return found if detail else [one["name"] for one in found]

    async def _rm_file(self, path, **_):
        self.objects.pop(path, None)


fsspec.register_implementation("elsewhere", Elsewhere, clobber=True)
