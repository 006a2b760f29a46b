"""Values are strict when decoded and addressed by what they say; sites are one string outside and one value inside."""

import pytest

from storage import InputError, Site
from storage.value import Value, canonical, checked_name, convert, decode, identity


class Inner(Value):
    size: int = 3


class Outer(Value):
    site: Site
    inner: Inner = Inner()
    sites: tuple[Site, ...] = ()


def test_a_site_survives_a_recipe_and_a_record():
    value = convert({"site": "resid.6", "sites": ["embed", "blocks.2.hook_mlp_out"]}, Outer, "jobs.a")
    assert value.site == Site("resid", 6)
    assert value.sites == (Site("embed"), Site("mlp", 2))
    assert decode(canonical(value), Outer, "here") == value
    assert b'"site":"resid.6"' in canonical(value)


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("hidden_states[0]", "embed"),
        ("hidden_states[7]", "resid.6"),
        ("blocks.0.hook_resid_pre", "embed"),
        ("blocks.4.hook_resid_pre", "resid.3"),
        ("blocks.4.hook_resid_post", "resid.4"),
        ("blocks.4.hook_attn_out", "attn.4"),
        ("module:h.3.ln_1", "module:h.3.ln_1"),
    ],
)
def test_foreign_names_of_sites_are_understood(text, site):
    assert str(Site.parse(text)) == site


@pytest.mark.parametrize("text", ["resid", "resid.-1", "layer.3", "module:", "", "hidden_states[-1]"])
def test_an_unknown_site_says_what_to_write(text):
    with pytest.raises(ValueError, match=r"unknown site .*write embed, resid\.L"):
        Site.parse(text)


def test_sites_sort_by_depth():
    names = ["unembed", "resid.10", "resid.2", "attn.2", "mlp.2", "embed"]
    assert [str(site) for site in sorted(map(Site.parse, names))] == [
        "embed", "attn.2", "mlp.2", "resid.2", "resid.10", "unembed",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"site": "resid.6", "iner": {}}, r"jobs\.a: .*unknown field `iner`"),
        ({"site": "resid.6", "inner": {"size": "3"}}, r"jobs\.a\.inner\.size: Expected `int`, got `str`"),
        ({"site": "reside.6"}, r"jobs\.a\.site: unknown site 'reside\.6'"),
        ({}, r"jobs\.a: .*missing required field `site`"),
    ],
)
def test_a_wrong_table_is_refused_with_the_path_of_the_field(table, message):
    with pytest.raises(InputError, match=message):
        convert(table, Outer, "jobs.a")


def test_identity_counts_defaults_and_nothing_else():
    assert identity(Outer(site=Site("embed"))) == identity(Outer(site=Site("embed"), inner=Inner(size=3)))
    assert identity(Outer(site=Site("embed"))) != identity(Outer(site=Site("embed"), inner=Inner(size=4)))
    assert len(identity(Inner())) == 12


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a..b", "x" * 200])
def test_a_name_is_one_plain_path_component(name):
    with pytest.raises(InputError, match="an artifact is named"):
        checked_name(name, "an artifact")
