"""`garner export-sae`: the coder of an artifact as a folder that SAELens loads."""

from collections.abc import Iterator
from typing import Any

from storage.artifact import Artifact
from storage.errors import InputError
from storage.lake import Lake
from storage.site import Site
from storage.url import Folder

_HOOKS = {
    "embed": "blocks.0.hook_resid_pre",
    "resid": "blocks.{layer}.hook_resid_post",
    "attn": "blocks.{layer}.hook_attn_out",
    "mlp": "blocks.{layer}.hook_mlp_out",
    "module": "{path}",
}
"""What TransformerLens calls a site."""


def exported(url: str, name: str, folder: str) -> Iterator[str]:
    """Write the coder into `folder`; says what is there then."""
    from jobs import sae
    from jobs.sae import saelens

    lake = Lake(url)
    artifact, out = lake.artifact(name), Folder.at(folder)
    if artifact.record.kind != "sae":
        raise InputError(f"{name} is of the job {artifact.record.kind}: only what `sae` left is exported")
    if out.names():
        raise InputError(f"{out} is not empty: name a new folder, or empty it first")
    files = saelens.exported(sae.load(artifact), _about(lake, artifact))
    for file, data in files.items():
        out.create(file, data)
    yield f"{' and '.join(files)} in {out}: SAE.load_from_disk of SAELens reads them"


def _about(lake: Lake, artifact: Artifact) -> dict[str, Any]:
    """SAELens's metadata: which model, and where in it."""
    config = artifact.record.config
    cache = artifact.record.inputs[config["cache"]].cache
    found = {
        "model_name": lake.cache(cache).record.identity.model.name,
        "hook_name": hook_name(Site.parse(config["site"])),
        "garner": {"artifact": artifact.folder.name, "cache": cache},
    }
    if config["target"]:
        found["hook_name_out"] = hook_name(Site.parse(config["target"]["site"]))
    return found


def hook_name(site: Site) -> str:
    """What TransformerLens calls a site; a site that it has no name for keeps ours."""
    return _HOOKS.get(site.kind, str(site)).format(layer=site.layer, path=site.path)
