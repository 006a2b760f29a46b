"""Small random models of many families, and the algebra of their blocks, written out by hand.

x: the stream before a block, a: what attention adds, m: what the MLP adds; all [1, T, d].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor

LAYERS = 3
WIDTH = 32
VOCABULARY = 97

_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": VOCABULARY}
_SIZES = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 48}
_TEXT = {**_IDS, **_SIZES, "max_position_embeddings": 64}
_GROUPED = {**_TEXT, "num_key_value_heads": 2}
_GEMMA = {**_GROUPED, "head_dim": 8, "sliding_window": 3}
_GPT = {**_IDS, "n_layer": LAYERS, "n_embd": WIDTH, "n_head": 4, "n_positions": 64}
_OPT = {**_IDS, **_SIZES, "ffn_dim": 48, "max_position_embeddings": 64}
_BLOOM = {**_IDS, "n_layer": LAYERS, "hidden_size": WIDTH, "n_head": 4}
_FALCON = {**_IDS, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
_IMAGE = {**_SIZES, "image_size": 24, "patch_size": 8, "num_channels": 3}
_DINO = {name: size for name, size in _IMAGE.items() if name != "intermediate_size"} | {"layerscale_value": 0.5}


@dataclass(frozen=True)
class Family:
    """A config and what plain transformers code says about one of its blocks."""

    config: Any
    blocks: str
    """Path of the list of blocks."""
    mlp: Callable[[Any, Tensor, Tensor], Tensor]
    """(block, x, a) -> m, by the block's own modules."""
    out: Callable[[Any, Tensor, Tensor, Tensor], Tensor] = lambda b, x, a, m: x + a + m
    """(block, x, a, m) -> the block's output."""
    final: Callable[[Any, Tensor], Tensor] = lambda model, x: x
    """(model, output of the last block) -> last_hidden_state."""
    prefix: int = 0


def build(config: Any, seed: int = 0) -> Any:
    """A model of `config` in which every parameter is random, gains of norms and biases too."""
    torch.manual_seed(seed)
    return _random(hf.AutoModel.from_config(config))


def build_whole(name: str, seed: int = 0) -> Any:
    """A model of the text family `name` with its own head: of masked tokens for encoders, of the next for decoders."""
    torch.manual_seed(seed)
    kind = hf.AutoModelForMaskedLM if "bert" in name else hf.AutoModelForCausalLM
    return _random(kind.from_config(TEXT[name].config))


def _random(model: Any) -> Any:
    model.eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.dim() == 1 else 0.15))
    return model


def _llama_mlp(b: Any, x: Tensor, a: Tensor) -> Tensor:
    return b.mlp(b.post_attention_layernorm(x + a))


def _gemma2_mlp(b: Any, x: Tensor, a: Tensor) -> Tensor:
    return b.post_feedforward_layernorm(b.mlp(b.pre_feedforward_layernorm(x + a)))


def _norm(model: Any, x: Tensor) -> Tensor:
    return model.norm(x)


def _ln_f(model: Any, x: Tensor) -> Tensor:
    return model.ln_f(x)


def _llama(config: Any, **changes: Any) -> Family:
    return Family(config, **({"blocks": "layers", "mlp": _llama_mlp, "final": _norm} | changes))


def _opt_mlp(b: Any, h: Tensor) -> Tensor:
    return b.fc2(b.activation_fn(b.fc1(h)))


def _bert(config: Any) -> Family:
    def middle(b: Any, x: Tensor, a: Tensor) -> Tensor:
        return b.attention.output.LayerNorm(x + a)

    return Family(
        config,
        blocks="encoder.layer",
        mlp=lambda b, x, a: b.output.dense(b.intermediate(middle(b, x, a))),
        out=lambda b, x, a, m: b.output.LayerNorm(m + middle(b, x, a)),
    )


def _bloom_mlp(b: Any, h: Tensor) -> Tensor:
    return b.mlp.dense_4h_to_h(b.mlp.gelu_impl(b.mlp.dense_h_to_4h(h)))


def _falcon(mlp: Callable[[Any, Tensor, Tensor], Tensor], **changes: Any) -> Family:
    return Family(hf.FalconConfig(**_FALCON, **changes), "h", mlp, final=_ln_f)


TEXT: dict[str, Family] = {
    "gpt2": Family(hf.GPT2Config(**_GPT), "h", lambda b, x, a: b.mlp(b.ln_2(x + a)), final=_ln_f),
    "gptj": Family(hf.GPTJConfig(**_GPT, rotary_dim=4), "h", lambda b, x, a: b.mlp(b.ln_1(x)), final=_ln_f),
    "llama": _llama(hf.LlamaConfig(**_GROUPED)),
    "mistral": _llama(hf.MistralConfig(**_GROUPED, sliding_window=3)),
    "mixtral": _llama(hf.MixtralConfig(**_GROUPED, num_local_experts=4)),
    "qwen2": _llama(hf.Qwen2Config(**_GROUPED)),
    "qwen2_windowed": _llama(
        hf.Qwen2Config(**_GROUPED, use_sliding_window=True, sliding_window=3, max_window_layers=1)
    ),
    "qwen2_moe": _llama(
        hf.Qwen2MoeConfig(**_GROUPED, num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16)
    ),
    "qwen3": _llama(hf.Qwen3Config(**_GROUPED, head_dim=8)),
    "gemma": _llama(hf.GemmaConfig(**_GROUPED, head_dim=8)),
    "gemma2": _llama(hf.Gemma2Config(**_GEMMA), mlp=_gemma2_mlp),
    "gemma3": _llama(
        hf.Gemma3TextConfig(**_GEMMA, layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
        mlp=_gemma2_mlp,
    ),
    "olmo2": _llama(hf.Olmo2Config(**_GROUPED), mlp=lambda b, x, a: b.post_feedforward_layernorm(b.mlp(x + a))),
    "granite": _llama(
        hf.GraniteConfig(**_GROUPED, residual_multiplier=0.22, embedding_multiplier=3.0),
        mlp=lambda b, x, a: 0.22 * _llama_mlp(b, x, a),
    ),
    "cohere": _llama(hf.CohereConfig(**_GROUPED), mlp=lambda b, x, a: b.mlp(b.input_layernorm(x))),
    "gpt_neox": Family(
        hf.GPTNeoXConfig(**_TEXT),
        "layers",
        lambda b, x, a: b.mlp(b.post_attention_layernorm(x)),
        final=lambda model, x: model.final_layer_norm(x),
    ),
    "gpt_neox_sequential": Family(
        hf.GPTNeoXConfig(**_TEXT, use_parallel_residual=False),
        "layers",
        _llama_mlp,
        final=lambda model, x: model.final_layer_norm(x),
    ),
    "phi": Family(
        hf.PhiConfig(**_TEXT),
        "layers",
        lambda b, x, a: b.mlp(b.input_layernorm(x)),
        final=lambda model, x: model.final_layernorm(x),
    ),
    "opt": Family(
        hf.OPTConfig(**_OPT),
        "decoder.layers",
        lambda b, x, a: _opt_mlp(b, b.final_layer_norm(x + a)),
        final=lambda model, x: model.decoder.final_layer_norm(x),
    ),
    "opt_post_norm": Family(
        hf.OPTConfig(**_OPT, do_layer_norm_before=False),
        "decoder.layers",
        lambda b, x, a: _opt_mlp(b, b.self_attn_layer_norm(x + a)),
        out=lambda b, x, a, m: b.final_layer_norm(m + b.self_attn_layer_norm(x + a)),
    ),
    "opt_projected": Family(
        hf.OPTConfig(**_OPT, word_embed_proj_dim=16),
        "decoder.layers",
        lambda b, x, a: _opt_mlp(b, b.final_layer_norm(x + a)),
        final=lambda model, x: model.decoder.project_out(model.decoder.final_layer_norm(x)),
    ),
    "bloom": Family(
        hf.BloomConfig(**_BLOOM),
        "h",
        lambda b, x, a: _bloom_mlp(b, b.post_attention_layernorm(x + a)),
        final=_ln_f,
    ),
    "bloom_post_norm": Family(
        hf.BloomConfig(**_BLOOM, apply_residual_connection_post_layernorm=True),
        "h",
        lambda b, x, a: _bloom_mlp(b, b.post_attention_layernorm(b.input_layernorm(x) + a)),
        out=lambda b, x, a, m: m + b.post_attention_layernorm(b.input_layernorm(x) + a),
        final=_ln_f,
    ),
    "falcon": _falcon(lambda b, x, a: b.mlp(b.input_layernorm(x))),
    "falcon_alibi": _falcon(lambda b, x, a: b.mlp(b.input_layernorm(x)), alibi=True, bias=True),
    "falcon_sequential": _falcon(_llama_mlp, parallel_attn=False),
    "falcon_new": _falcon(lambda b, x, a: b.mlp(b.ln_mlp(x)), new_decoder_architecture=True, num_kv_heads=2),
    "mpt": Family(
        hf.MptConfig(vocab_size=VOCABULARY, d_model=WIDTH, n_heads=4, n_layers=LAYERS, max_seq_len=64),
        "blocks",
        lambda b, x, a: b.ffn.down_proj(b.ffn.act(b.ffn.up_proj(b.norm_2(x + a)))),
        final=lambda model, x: model.norm_f(x),
    ),
    "bert": _bert(hf.BertConfig(**_TEXT)),
    "roberta": _bert(hf.RobertaConfig(**{**_TEXT, "pad_token_id": 1, "bos_token_id": 0})),
    "distilbert": Family(
        hf.DistilBertConfig(
            vocab_size=VOCABULARY,
            dim=WIDTH,
            n_layers=LAYERS,
            n_heads=4,
            hidden_dim=48,
            max_position_embeddings=64,
        ),
        "transformer.layer",
        lambda b, x, a: b.ffn(b.sa_layer_norm(x + a)),
        out=lambda b, x, a, m: b.output_layer_norm(m + b.sa_layer_norm(x + a)),
    ),
    "modernbert": Family(
        hf.ModernBertConfig(**_TEXT, local_attention=6, cls_token_id=1, sep_token_id=2),
        "layers",
        lambda b, x, a: b.mlp(b.mlp_norm(x + a)),
        final=lambda model, x: model.final_norm(x),
    ),
}

VISION: dict[str, Family] = {
    "vit": Family(
        hf.ViTConfig(**_IMAGE),
        "layers",
        lambda b, x, a: b.mlp(b.layernorm_after(x + a)),
        final=lambda model, x: model.layernorm(x),
        prefix=1,
    ),
    "deit": Family(
        hf.DeiTConfig(**_IMAGE),
        "layers",
        lambda b, x, a: b.mlp(b.layernorm_after(x + a)),
        final=lambda model, x: model.layernorm(x),
        prefix=2,
    ),
    "dinov2": Family(
        hf.Dinov2Config(**_DINO),
        "encoder.layer",
        lambda b, x, a: b.layer_scale2(b.mlp(b.norm2(x + a))),
        final=lambda model, x: model.layernorm(x),
        prefix=1,
    ),
    "dinov2_with_registers": Family(
        hf.Dinov2WithRegistersConfig(**_DINO, num_register_tokens=4),
        "encoder.layer",
        lambda b, x, a: b.layer_scale2(b.mlp(b.norm2(x + a))),
        final=lambda model, x: model.layernorm(x),
        prefix=5,
    ),
    "clip_vision": Family(
        hf.CLIPVisionConfig(**_IMAGE),
        "encoder.layers",
        lambda b, x, a: b.mlp(b.layer_norm2(x + a)),
        prefix=1,
    ),
    "siglip_vision": Family(
        hf.SiglipVisionConfig(**_IMAGE),
        "encoder.layers",
        lambda b, x, a: b.mlp(b.layer_norm2(x + a)),
        final=lambda model, x: model.post_layernorm(x),
    ),
}
