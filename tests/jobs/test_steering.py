"""T13 and T14: steering with own and with transferred vectors of models that learnt one language, and all controls."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Doc

import jobs.contrast as contrast
import jobs.emb2emb as emb2emb
import jobs.steering as steering
from examples import topics
from jobs.alignment.maps import LeastSquares
from jobs.emb2emb.config import Hidden
from jobs.emb2emb.maps import Logit
from jobs.probe.examples import LastToken
from jobs.steering.cached import stored
from jobs.steering.config import All, Config, Last, Named, Transfer, Typical
from jobs.steering.measure import Added, Bench, divergence, log_odds
from jobs.steering.prompts import Answers, answers, prompts
from storage import InputError, Site

LAST = {"narrow": Site.parse("resid.1"), "wide": Site.parse("resid.2")}
MIDDLE = {"narrow": Site.parse("resid.0"), "wide": Site.parse("resid.1")}
KINDS = ("least-squares", "logit", "hidden")
TOPIC_PAIRS = [(topics.TOPICS[n], topics.TOPICS[(n + 3) % 8]) for n in range(6)]


@pytest.fixture
def world(pairs, run_job):
    """The tied pair, and its jobs, made when they are asked for."""
    return World(pairs.tied, run_job)


class World:
    """Caches by the names of recipes, and artifacts of jobs over them."""

    def __init__(self, pair, run_job):
        self.pair, self.run_job, self.made = pair, run_job, {}
        self.caches = {
            "narrow": pair.narrow_texts,
            "wide": pair.wide_texts,
            "narrow_tokens": pair.narrow_vocabulary,
            "wide_tokens": pair.wide_vocabulary,
        }

    def vectors(self, name, positive, negative, sites):
        key = f"{name} {positive} {negative}"
        if key not in self.made:
            chosen = contrast.Config(
                cache=name,
                label="topic",
                positive=positive,
                negative=negative,
                sites=sites,
                methods=("mean_difference",),
            )
            _, self.made[key] = self.run_job(contrast, chosen, self.caches)
        return key

    def map(self):
        if "map" not in self.made:
            hidden = Hidden(
                source="narrow", target="wide", source_site=Site.parse("resid.1"), target_site=Site.parse("resid.2")
            )
            config = emb2emb.Config(
                source="narrow_tokens", target="wide_tokens", maps=(LeastSquares(), Logit(), hidden)
            )
            _, self.made["map"] = self.run_job(emb2emb, config, self.caches)
        return "map"

    def config(self, positive="sea", negative="garden", sites=LAST, transfer=True, others=(), **kw):
        both = {name: (LAST[name], MIDDLE[name]) for name in ("narrow", "wide")}
        donor = "narrow" if transfer else "wide"
        source = self.vectors("narrow", positive, negative, both["narrow"])
        carried = Transfer(vectors=source, site=sites["narrow"], map=self.map(), kinds=KINDS) if transfer else None
        asked = {
            "cache": "wide",
            "vocabulary": "wide_tokens",
            "vectors": self.vectors("wide", positive, negative, both["wide"]),
            "site": sites["wide"],
            "last": LAST["wide"],
            "transfer": carried,
            "others": tuple(self.vectors(donor, *other, both[donor]) for other in others),
            "alphas": (-2, -1, 1, 2),
            "prompt_tokens": 6,  # <bos>, and words up to one that a topic's word follows
            "n_prompts": 48,
            "new_tokens": 4,
        }
        return Config(**(asked | kw))

    def run(self, config):
        models = {"wide": self.pair.model("wide")}
        report, artifact = self.run_job(steering, config, self.caches, artifacts=self.made, models=models)
        return {metric.name: metric for metric in report.metrics}, report, artifact

    def bench(self, config):
        vectors = contrast.load(self.made[config.vectors])
        asked = prompts(config, self.caches["wide"], vectors)
        spoken = answers(config, self.caches["wide"], self.caches["wide_tokens"], vectors)
        return Bench(config, self.pair.model("wide"), asked, spoken), asked, spoken, vectors


class TestTransfer:
    """T13."""

    def test_a_mapped_vector_does_at_the_last_layer_what_the_native_one_does(self, world):
        shares = {}
        for positive, negative in TOPIC_PAIRS:
            found, *_ = world.run(
                world.config(positive, negative, others=[("music", "law")] if positive != "music" else [])
            )
            for name in (
                "least-squares share",
                "permuted map share",
                "not mapped share",
                "least-squares cosine",
                "native shift",
            ):
                shares.setdefault(name, []).append(found[name].value)
            shares.setdefault("random", []).append(found["least-squares share"].null)
        mean = {name: float(np.mean(np.abs(values))) for name, values in shares.items()}
        assert min(shares["native shift"]) > 1
        assert mean["least-squares share"] >= 0.8
        assert mean["permuted map share"] <= 0.2
        assert mean["not mapped share"] <= 0.3
        assert mean["random"] <= 0.3
        assert mean["least-squares cosine"] >= 0.85

    def test_in_the_middle_it_does_much_of_it(self, world):
        found = [world.run(world.config(*pair, sites=MIDDLE))[0] for pair in TOPIC_PAIRS[:3]]
        assert np.mean([one["least-squares share"].value for one in found]) >= 0.4
        assert np.mean([abs(one["permuted map share"].value) for one in found]) <= 0.2

    def test_log_odds_rise_with_every_step_of_the_strength(self, world):
        _, report, artifact = world.run(world.config(alphas=(-2, -1, -0.5, 0.5, 1, 2, 4)))
        lines = pq.read_table(io.BytesIO(artifact.read("sweep.parquet"))).to_pylist()
        for arm in ("native", "least-squares"):
            rising = [line["log_odds"] for line in lines if (line["arm"], line["evaluated"]) == (arm, "live")]
            assert len(rising) == 8
            assert (np.diff(rising) > 0).all()
        assert any("rise with every step" in note for note in report.notes)

    def test_all_controls_are_there(self, world):
        found, report, artifact = world.run(world.config(others=[("music", "law")]))
        for kind in KINDS:
            assert {f"{kind} share", f"{kind}, raw share", f"{kind}, raw norm", f"{kind} cosine"} <= set(found)
        assert abs(found["other: narrow music law share"].value) < 0.5
        assert found["hidden cosine"].value > 0.9
        assert found["least-squares, raw norm"].value < 1
        lines = pq.read_table(io.BytesIO(artifact.read("sweep.parquet"))).to_pylist()
        assert sum(line["group"] == "random" and line["alpha"] == 1 for line in lines) == 20
        assert found["native fluency"].value >= found["native fluency"].null
        assert artifact.read("figures/sweep.svg").startswith(b"<?xml")
        assert "does" in report.headline


class TestFromTheCache:
    """T14."""

    def test_the_last_layer_is_what_the_live_model_says(self, world):
        config = world.config(transfer=False)
        bench, asked, _, vectors = world.bench(config)
        kept = stored(config, LAST["wide"], world.caches["wide"], world.caches["wide_tokens"], asked, "cpu")
        assert kept.exact
        for alpha in (-2, 0, 1, 4):
            vector_D = alpha * vectors.at(config.site, "mean_difference")
            found_BV, live_BV = kept.logits(vector_D), bench.logits(vector_D)
            assert (found_BV - live_BV[:, : found_BV.shape[1]]).abs().max() < 1e-5 * live_BV.abs().max()

    def test_lower_down_it_is_the_direct_effect_and_is_called_so(self, world):
        found, _, artifact = world.run(world.config(sites=MIDDLE))
        lines = pq.read_table(io.BytesIO(artifact.read("sweep.parquet"))).to_pylist()
        assert {line["evaluated"] for line in lines} == {"live", "direct effect"}
        assert "cache against live" not in found

    def test_the_whole_sweep_agrees(self, world):
        found, _, artifact = world.run(world.config())
        assert found["cache against live"].value < 1e-4
        lines = pq.read_table(io.BytesIO(artifact.read("sweep.parquet"))).to_pylist()
        assert {line["evaluated"] for line in lines} == {"live", "cache"}


class TestMeasures:
    def test_log_odds_and_divergence_are_those_of_the_definition(self):
        spoken = Answers(np.array([0, 2]), np.array([4]), ("", ""))
        clean, steered = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0)).double()
        p = steered.softmax(1).numpy()
        np.testing.assert_allclose(log_odds(steered, spoken), np.log((p[:, 0] + p[:, 2]) / p[:, 4]))
        rest = [1, 3, 5]
        a, b = (one[:, rest].softmax(1).numpy() for one in (clean, steered))
        np.testing.assert_allclose(divergence(clean, steered, spoken), (a * np.log(a / b)).sum(1))
        assert divergence(clean, clean, spoken).max() == 0

    def test_a_vector_is_added_everywhere_or_from_the_last_token_on(self):
        v_D, prompt, new = torch.ones(2), torch.zeros(6, 2), torch.zeros(2, 2)
        everywhere, late = (Added(v_D, one, 2, 3) for one in (All(), Last()))
        assert everywhere(prompt)[:, 0].tolist() == [1] * 6
        assert late(prompt)[:, 0].tolist() == [0, 0, 1, 0, 0, 1]
        assert everywhere(new)[:, 0].tolist() == late(new)[:, 0].tolist() == [1, 1]

    def test_where_it_is_added_matters_below_the_last_layer(self, world):
        found = [world.run(world.config(transfer=False, sites=MIDDLE, **kw))[0] for kw in ({}, {"positions": Last()})]
        shifts = [one["native shift"].value for one in found]
        assert min(shifts) > 1
        assert abs(shifts[0] - shifts[1]) > 0.01


class TestAnswers:
    def test_typical_ones_are_words_of_the_topics(self, world):
        config = world.config(transfer=False, answers=Typical(n=5))
        _, _, spoken, _ = world.bench(config)
        words = np.array(topics.Language.tokens)
        assert {word[:-2] for word in words[spoken.positive]} == {"sea"}
        assert {word[:-2] for word in words[spoken.negative]} == {"garden"}

    def test_named_ones_are_found_with_the_space_before_them(self, world):
        config = world.config(transfer=False, answers=Named(positive=("sea00", " sea01"), negative=("garden00",)))
        _, _, spoken, _ = world.bench(config)
        assert [topics.Language.tokens[token] for token in spoken.positive] == ["sea00", "sea01"]

    def test_what_is_no_token_is_refused_with_those_that_begin_alike(self, world):
        config = world.config(transfer=False, answers=Named(positive=("sea99",), negative=("garden00",)))
        with pytest.raises(InputError, match=r"answer 'sea99' is no single token .* begin alike are \[' sea00'"):
            world.run(config)

    def test_prompts_are_held_out(self, world):
        config = world.config(transfer=False)
        _, asked, _, vectors = world.bench(config)
        tokens = world.caches["wide"].tokens
        split = contrast.sides.split_of(vectors.config, tokens)
        documents = tokens.documents(asked.rows_B)
        assert split.test[documents].all()
        assert set(tokens.label("topic")[documents]) == {"sea", "garden"}
        np.testing.assert_array_equal(asked.ids_BT[:, 0], 1)


class TestRefusals:
    def test_a_vector_of_the_wrong_width_names_both(self, world):
        narrow = world.vectors("narrow", "sea", "garden", (LAST["narrow"],))
        wrong = Config(cache="wide", vocabulary="wide_tokens", vectors=narrow, site=LAST["narrow"], prompt_tokens=6)
        with pytest.raises(InputError, match=r"has width 48, wide there has width 64"):
            world.run(wrong)

    def test_a_vector_of_zero(self, make_cache, run_job):
        """Both sides have the same states where no block has told them apart yet."""
        documents = [Doc("a", {"side": ("yes", "no")[n % 2]}, key=f"d{n}") for n in range(80)]
        caches = {"c": make_cache({"embed": np.ones((80, 4), np.float32)}, documents)}
        fitted = contrast.Config(cache="c", label="side", positive="yes", pooling=LastToken(), methods=("probe",))
        _, artifact = run_job(contrast, fitted, caches)
        asked = Config(cache="c", vocabulary="c", vectors="v", site=Site.parse("embed"), method="probe")
        with pytest.raises(InputError, match=r"the vector of v at embed has norm 0: .* take a later site"):
            run_job(steering, asked, caches, artifacts={"v": artifact})

    def test_a_map_of_another_source_names_both_widths(self, world):
        wide = world.vectors("wide", "sea", "garden", tuple(sorted((LAST["wide"], MIDDLE["wide"]))))
        carried = Transfer(vectors=wide, site=LAST["wide"], map=world.map())
        with pytest.raises(InputError, match=r"has width 64, map least-squares of map has width 48"):
            world.run(_with(world, carried))

    def test_a_map_that_was_not_fitted(self, world):
        source = world.vectors("narrow", "sea", "garden", (LAST["narrow"], MIDDLE["narrow"]))
        carried = Transfer(vectors=source, site=LAST["narrow"], map=world.map(), kinds=("procrustes",))
        with pytest.raises(InputError, match=r"holds no map 'procrustes'; it holds least-squares"):
            world.run(_with(world, carried))

    def test_documents_that_are_too_short(self, world):
        with pytest.raises(InputError, match=r"have 60 tokens in one sequence: lower prompt_tokens"):
            world.run(world.config(transfer=False, prompt_tokens=60))

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ({"alphas": (-1, 2)}, "alphas wants 1"),
            ({"answers": Named(positive=(), negative=("a",))}, "at least one token for each side"),
        ],
    )
    def test_configurations_that_cannot_be(self, wrong, says):
        with pytest.raises(ValueError, match=says):
            Config(cache="a", vocabulary="b", vectors="c", site=LAST["wide"], **wrong)


def _with(world, carried):
    vectors = world.vectors("wide", "sea", "garden", (LAST["wide"], MIDDLE["wide"]))
    return Config(
        cache="wide", vocabulary="wide_tokens", vectors=vectors, site=LAST["wide"], transfer=carried, prompt_tokens=6
    )
