"""What an added vector does to the next token and to the text that follows.

B prompts, T tokens of each, V vocabulary, D width of the site.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jobs.core.model import Model
from jobs.steering.config import All, Config, Last
from jobs.steering.prompts import Answers, Prompts
from storage.site import Site

UNEMBED = Site("unembed")
_BATCH = 8192
"""Tokens of a forward pass."""
_DRAWS = 1000


@dataclass(frozen=True)
class Outcome:
    """One vector at one strength, prompt by prompt."""

    log_odds_B: np.ndarray
    """log p(any positive answer) - log p(any negative one) of the next token, in nats."""
    off_target_B: np.ndarray
    """KL divergence of the next token from that of the unsteered model, answers left out, in nats."""
    nll_B: np.ndarray | None = None
    """-log p per token, in nats, that the unsteered model gives to the steered text; None where there is none."""

    @property
    def log_odds(self) -> float:
        """Mean over prompts."""
        return float(self.log_odds_B.mean())

    def interval(self, seed: int) -> tuple[float, float]:
        """Of the mean log-odds, 95 %, over documents."""
        rng, n = np.random.default_rng(seed), len(self.log_odds_B)
        means = self.log_odds_B[rng.integers(n, size=(_DRAWS, n))].mean(1)
        low, high = np.quantile(means, (0.025, 0.975))
        return float(low), float(high)


@dataclass(frozen=True)
class Added:
    """alpha v on the rows of prompts of one length, and on each token that follows them."""

    vector_D: Tensor
    positions: All | Last
    count: int
    length: int

    def __call__(self, x_ND: Tensor) -> Tensor:
        """As an edit of a live model, which shows whole prompts first and then new tokens alone."""
        vector_D = self.vector_D.to(x_ND)
        if isinstance(self.positions, All) or len(x_ND) == self.count:
            return x_ND + vector_D
        late_N1 = torch.arange(len(x_ND), device=x_ND.device)[:, None] % self.length == self.length - 1
        return torch.where(late_N1, x_ND + vector_D, x_ND)


class Bench:
    """A model, its prompts and answers, and what it says where nothing is added."""

    def __init__(self, config: Config, model: Model, prompts: Prompts, answers: Answers) -> None:
        self._config, self._model, self._prompts, self.answers = config, model, prompts, answers
        self._clean_BV = self.logits(None)
        self.clean = self.outcome(None, generates=True)

    def outcome(self, vector_D: Tensor | None, generates: bool) -> Outcome:
        """With alpha v, or nothing, added."""
        logits_BV = self._clean_BV if vector_D is None else self.logits(vector_D)
        nll_B = self._fluency(vector_D) if generates else None
        off_target_B = divergence(self._clean_BV, logits_BV, self.answers)
        return Outcome(log_odds(logits_BV, self.answers), off_target_B, nll_B)

    def logits(self, vector_D: Tensor | None) -> Tensor:
        """Of the token after each prompt, float32 [B, V]."""

        def next_token(ids_bT: np.ndarray) -> Tensor:
            x_Nd = self._model.read(list(ids_bT), [UNEMBED])[UNEMBED]
            return self._model.logits(x_Nd[ids_bT.shape[1] - 1 :: ids_bT.shape[1]])

        return torch.cat(list(self._batches(vector_D, next_token)))

    def _fluency(self, vector_D: Tensor | None) -> np.ndarray:
        config = self._config

        def go_on(ids_bT: np.ndarray) -> Tensor:
            return torch.from_numpy(
                self._model.generate(list(ids_bT), config.new_tokens, config.temperature, config.seed)
            )

        new_BT = torch.cat(list(self._batches(vector_D, go_on))).numpy()
        texts_BT = np.concatenate([self._prompts.ids_BT, new_BT], 1)
        length, first = texts_BT.shape[1], self._prompts.ids_BT.shape[1] - 1
        losses = [
            self._model.loss(list(texts_BT[part])).view(-1, length)[:, first : length - 1].mean(1)
            for part in _parts(len(texts_BT), length)
        ]
        return torch.cat(losses).cpu().numpy().astype(np.float64)

    def _batches(self, vector_D: Tensor | None, fn: Callable[[np.ndarray], Tensor]) -> Iterator[Tensor]:
        ids_BT = self._prompts.ids_BT
        for part in _parts(len(ids_BT), ids_BT.shape[1]):
            with self._adding(vector_D, ids_BT[part]):
                yield fn(ids_BT[part])

    @contextmanager
    def _adding(self, vector_D: Tensor | None, ids_bT: np.ndarray) -> Iterator[None]:
        if vector_D is None:
            yield
            return
        with self._model.edit(self._config.site, Added(vector_D, self._config.positions, *ids_bT.shape)):
            yield


def log_odds(logits_BV: Tensor, answers: Answers) -> np.ndarray:
    """float64 [B]; the log-sum-exp of all cancels."""
    sides = [
        logits_BV[:, torch.from_numpy(ids).to(logits_BV.device)].double()
        for ids in (answers.positive, answers.negative)
    ]
    return (sides[0].logsumexp(1) - sides[1].logsumexp(1)).cpu().numpy()


def divergence(clean_BV: Tensor, logits_BV: Tensor, answers: Answers) -> np.ndarray:
    """KL(clean || steered) over all tokens but the answers, each side renormalised; float64 [B]."""
    rest_V = torch.ones(clean_BV.shape[1], dtype=torch.bool, device=clean_BV.device)
    rest_V[torch.from_numpy(answers.all).to(clean_BV.device)] = False
    p_BV, q_BV = (one[:, rest_V].double().log_softmax(1) for one in (clean_BV, logits_BV))
    return (p_BV.exp() * (p_BV - q_BV)).sum(1).clamp_min(0).cpu().numpy()


def _parts(count: int, length: int) -> Iterator[slice]:
    size = max(1, _BATCH // length)
    return (slice(at, at + size) for at in range(0, count, size))
