"""Models: what planning needs to know of one without its weights, and one loaded to be read.

B: sequences, T: tokens, d: a site's width, N: rows asked for.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import safetensors
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModel

from storage.errors import InputError
from storage.site import Site
from storage.value import Value
from workers import checkpoint, logits, mass, spread, taps
from workers.sketch import Kind, Sketch, image_shape, sketch, tower_config

# Modules that pool the last hidden states: checkpoints often lack them, and no site is downstream of them.
_POOLING = {"pooler", "head"}


class ModelFacts(Value):
    """What planning needs of a model; known without loading a weight."""

    name: str
    """Own name: the last component of the hub id or folder."""
    source: str
    """Hub id or absolute folder."""
    revision: str
    """Commit of a hub id, "" for a folder."""
    weights: str
    """SHA-256 over the names and digests of the weight files."""
    config: str
    """SHA-256 of the canonical config.json."""
    tokenizer: str
    """SHA-256 over the tokenizer's files, "" where there is none."""
    processor: str
    """SHA-256 over the image processor's files, "" where there is none."""
    kind: Kind
    """What it reads: token ids or pixels."""
    layers: int
    """Blocks."""
    width: int
    """Of the residual stream."""
    widest: int
    """Of the widest module."""
    parameters: int
    """How many numbers its weights are, an unembedding of its own not counted."""
    vocabulary: int
    """Rows of the input embedding; 0 for vision."""
    context: int
    """Longest sequence its positions admit, in tokens; 0 where there is no limit or none is known."""


class ModelSpec(Value):
    """Which model a worker loads, where and how; small enough to send."""

    source: str
    """Hub id or absolute folder."""
    revision: str = ""
    """Commit of a hub id."""
    device: str = "cpu"
    """As torch names it; `auto` spreads the model over all the GPUs that the process sees."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of weights and arithmetic."""


def inspect(source: str, revision: str | None = None) -> ModelFacts:
    """The facts of a model; `InputError` where there is none or garner cannot read it."""
    source, commit = checkpoint.resolve(source, revision)
    drawn = sketch(source, commit)
    return ModelFacts(
        name=Path(source).name,
        source=source,
        revision=commit,
        weights=checkpoint.weights_digest(source, commit),
        config=checkpoint.config_digest(source, commit),
        tokenizer=checkpoint.tokenizer_digest(source, commit),
        processor=checkpoint.processor_digest(source, commit),
        kind=drawn.kind,
        layers=drawn.anatomy.layers,
        width=drawn.anatomy.tap(Site("embed")).width,
        widest=drawn.widest,
        parameters=drawn.parameters,
        vocabulary=drawn.vocabulary,
        context=drawn.context,
    )


def check_sites(source: str, revision: str | None, sites: Sequence[Site]) -> dict[Site, int]:
    """The width of each site but logits; `InputError` at the first that this model has not, saying what it has."""
    anatomy = sketch(*checkpoint.resolve(source, revision)).anatomy
    return {site: anatomy.width(site) for site in sites}


class LM:
    """A loaded model: in eval mode, without gradients, on its device."""

    def __init__(self, spec: ModelSpec, module: Any, drawn: Sketch, whole: Any = None) -> None:
        self.spec = spec
        self.module: nn.Module = module
        """The transformers model itself, unchanged."""
        self.whole = whole
        """What the checkpoint was saved as, with `module` as its body; None if loaded without its head."""
        self.device = spread.first_device(module) if spec.device == "auto" else torch.device(spec.device)
        """Where inputs go; what stands at a site is where its module is."""
        self.prefix = 0
        """Leading tokens that are no patches (class token, registers); 0 for text."""
        self._anatomy = drawn.anatomy
        if drawn.kind == "vision":
            self.prefix = self._count_prefix(image_shape(module.config))

    @property
    def hardware(self) -> str:
        """What the model runs on, as its maker names it; `cpu` without a GPU."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)

    def read(
        self, inputs: Mapping[str, Tensor], sites: Sequence[Site], spans: Mapping[str, Tensor] | None = None
    ) -> dict[Site, Tensor]:
        """What stands at each site, [B, T, d], on the site's device; nothing after the deepest site runs.

        `inputs` are `input_ids` [B, T] and, where sequences differ in length, `attention_mask` [B, T] with the padding
        at the right; or `pixel_values` [B, channels, height, width]. Rows at padding mean nothing. `spans` say for the
        mass sites which tokens each span holds, bool [B, T]. Logits are `logits` of what stands at `unembed`.
        """
        mask = inputs.get("attention_mask")
        assert mask is None or bool((mask[:, 1:] <= mask[:, :-1]).all()), "padding stands at the right"
        watched = {site: self._anatomy.attention(site) for site in sites if site.kind == "mass"}
        wanted = {site: self._anatomy.tap(site) for site in sites if site not in watched}
        here = {name: self._moved(value) for name, value in inputs.items()}
        held = {span: held_BT.to(self.device) for span, held_BT in (spans or {}).items()}
        batch, found = next(iter(here.values())).shape[0], taps.Found(sites)
        with torch.inference_mode(), mass.watched(self.module, watched, held, found.keep):
            taps.read(self.module, wanted, batch, lambda: self.module(**here), found)
        return found.rows()

    def go_on(self, ids_BT: Tensor, past: Any) -> Tensor:
        """What stands at `unembed` for further tokens of sequences, [B, T, d]; `past`, transformers' attention cache,
        holds what was read of them before, and then holds these too."""
        site = Site("unembed")
        found, taken = taps.Found([site]), {site: self._anatomy.tap(site)}
        inputs = {"input_ids": ids_BT.to(self.device), "past_key_values": past, "use_cache": True}
        with torch.inference_mode():
            taps.read(self.module, taken, len(ids_BT), lambda: self.module(**inputs), found)
        return found.rows()[site]

    def logits(self, x_Nd: Tensor, sets: Mapping[Site, Sequence[int]]) -> dict[Site, Tensor]:
        """For each site the logits of its tokens and the log-sum-exp of all, float32 [N, K + 1].

        `x_Nd` are rows of `unembed`. The model must have been loaded with its head.
        """
        assert self.whole is not None, "the model was loaded without its head"
        head = logits.head(*checkpoint.resolve(self.spec.source, self.spec.revision))
        column = {token: at for at, token in enumerate(dict.fromkeys(itertools.chain(*sets.values())))}
        scores_NK = logits.score(self.whole, head, x_Nd, tuple(column))
        return {site: scores_NK[:, [*(column[token] for token in ids), -1]] for site, ids in sets.items()}

    def table(self, site: Site, rows: Tensor | Sequence[int]) -> Tensor:
        """Rows of the input (`embed`) or output (`unembed`) embedding by token id, [N, d], as the weights hold them."""
        if site.kind not in ("embed", "unembed"):
            raise InputError(f"site {site} is no table of the vocabulary: ask for embed or unembed")
        weight_Vd = self._embedding if site.kind == "embed" or self._tied else self._unembedding
        width = self._anatomy.tap(site).width
        if weight_Vd.shape[1] != width:
            raise InputError(
                f"the {site} table of {self.spec.source!r} is of width {weight_Vd.shape[1]}, its site of width {width} "
                "(the model projects between them): read the other table"
            )
        return weight_Vd[torch.as_tensor(rows, device=weight_Vd.device)]

    @property
    def _embedding(self) -> Tensor:
        module: Any = self.module
        return module.get_input_embeddings().weight

    @property
    def _tied(self) -> bool:
        module: Any = self.module
        return bool(module.config.get_text_config().tie_word_embeddings)

    @functools.cached_property
    def _unembedding(self) -> Tensor:
        """The output embedding, which hidden states do not need: the checkpoint's own class is loaded once for it."""
        module: Any = self.module
        names = [name for name in module.config.architectures or () if hasattr(transformers, name)]
        head_class = getattr(transformers, names[0]) if names else type(module)
        if head_class is type(module):
            raise InputError(f"the checkpoint {self.spec.source!r} holds no unembedding: read embed, or name another")
        weight_Vd: Tensor = load_weights(head_class, self._on_cpu, None).get_output_embeddings().weight
        return weight_Vd.detach().to(self.device)

    @property
    def _on_cpu(self) -> ModelSpec:
        return msgspec.structs.replace(self.spec, device="cpu")

    def _moved(self, value: Tensor) -> Tensor:
        dtype = getattr(torch, self.spec.dtype) if value.is_floating_point() else None
        return value.to(self.device, dtype)

    def _count_prefix(self, shape: tuple[int, int, int]) -> int:
        """How many tokens come before those that an image's pixels change."""
        pixels = torch.stack([torch.zeros(shape), torch.linspace(-1, 1, shape[0] * shape[1] * shape[2]).view(shape)])
        x_BTd = self.read({"pixel_values": pixels}, [Site("embed")])[Site("embed")]
        patches_T = (x_BTd[0] != x_BTd[1]).any(-1)
        prefix = int(patches_T.int().argmax())
        if not bool(patches_T[prefix:].all()):
            raise InputError(f"model {self.spec.source!r} has tokens after its patches: garner reads none such")
        return prefix


def load(spec: ModelSpec, with_head: bool = False) -> LM:
    """The model of `spec` with its weights, and `with_head` its unembedding; `InputError` where they are not whole."""
    source, commit = checkpoint.resolve(spec.source, spec.revision)
    drawn = sketch(source, commit)
    kind = logits.head(source, commit).kind if with_head else AutoModel
    model = load_weights(kind, spec, drawn.attention)
    if spec.device != "auto":
        model = model.to(spec.device)
    return LM(spec, model.base_model if with_head else model, drawn, model if with_head else None)


def load_weights(model_class: Any, spec: ModelSpec, attention: str | None) -> Any:
    """A transformers model of that class in eval mode, without gradients: on the CPU, or spread if that is asked."""
    placed = spread.options() if spec.device == "auto" else {}
    source, commit = checkpoint.resolve(spec.source, spec.revision)
    transformers.logging.disable_progress_bar()  # many workers share one terminal
    try:
        model, report = model_class.from_pretrained(
            source,
            revision=commit or None,
            config=tower_config(source, commit),
            dtype=getattr(torch, spec.dtype),
            attn_implementation=attention,
            output_loading_info=True,
            **placed,
        )
    except (OSError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise InputError(
            f"the weights of model {source!r} cannot be loaded: {error}: save or fetch them again"
        ) from error
    if missing := sorted(key for key in report["missing_keys"] if not _POOLING & set(key.split("."))):
        raise InputError(
            f"model {source!r} lacks {len(missing)} of its weights, {missing[0]} the first, which would be random: "
            "save or fetch the whole model"
        )
    spread.check(source, getattr(model, "hf_device_map", {}))
    return model.eval().requires_grad_(False)
