"""A recipe is decoded strictly, says where it is wrong, and expands only what it calls a sweep."""

import copy

import pytest

from pipeline.corpus import Files
from pipeline.recipe import PoolTable, assign, expand, opened, read
from storage import InputError, Site

TABLE = {
    "lake": "lake",
    "models": {"small": {"name": "gpt2"}},
    "corpora": {"wiki": {"files": "wiki/*.txt"}},
    "caches": {
        "one": {"model": "small", "corpus": "wiki", "sites": ["embed", "hidden_states[7]"]},
        "two": {"model": "small", "corpus": "wiki", "sites": ["resid.1"], "context": 64},
    },
    "jobs": {"dictionary": {"kind": "sae", "cache": "one", "site": "resid.6"}},
}


def changed(*settings):
    table = TABLE
    for setting in settings:
        table = assign(table, setting)
    return table


def test_what_a_recipe_leaves_out_has_its_default():
    recipe = opened(TABLE, "/work", "night").recipe
    assert recipe.pool == PoolTable(kind="ray", address="local", workers=0, gpus=0, batch_tokens=8192)
    one = recipe.caches["one"]
    assert one.sites == (Site("embed"), Site("resid", 6))
    assert (one.context, one.dtype, one.unit, one.nonfinite) == (None, "bfloat16", 2**16, False)
    assert recipe.models["small"].dtype == "float32"


def test_paths_start_from_the_recipe_s_folder_and_urls_stay(tmp_path):
    here = opened(TABLE, str(tmp_path), "night")
    assert here.lake == str(tmp_path / "lake")
    assert here.corpora["wiki"] == Files(files=f"file://{tmp_path}/wiki/*.txt", text="text")
    assert opened(changed("lake=../lake"), str(tmp_path), "night").lake == str(tmp_path.parent / "lake")
    there = opened(changed("lake=s3://team/lake", "corpora.wiki.files=s3://c/*.txt"), str(tmp_path), "night")
    assert (there.lake, there.corpora["wiki"].files) == ("s3://team/lake", "s3://c/*.txt")


def test_a_recipe_in_a_file_is_the_same_wherever_it_is_read_from(tmp_path, monkeypatch):
    (tmp_path / "night.toml").write_text('lake = "lake"\n')
    monkeypatch.chdir(tmp_path)
    assert read("night.toml") == read(str(tmp_path / "night.toml"))
    assert (read("night.toml").title, read("night.toml").base) == ("night", str(tmp_path))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("caches.two.context=0", r"^caches\.two\.context: Expected `int` >= 1, found 0"),
        ("caches.two.contxt=3", r"^caches\.two: .*`contxt`: did you mean context\?"),
        ("caches.two.sites=['embed', 'resid.x']", r"^caches\.two\.sites\[1\]: unknown site 'resid\.x'"),
        ("models.small.dtype=int8", r"^models\.small\.dtype: Invalid enum value 'int8': there are: bfloat16"),
        ("corpora.wiki.split=word", r"^corpora\.wiki\.split: Invalid enum value 'word': .*file, line, paragraph"),
        ("corpora.wiki.hub=x", r"^corpora\.wiki needs exactly one of .*found files and hub"),
        ("corpora.wiki=3", r"^corpora\.wiki: Expected `object`"),
        ("pool.workers=-1", r"^pool\.workers: Expected `int` >= 0, found -1"),
        ("pool.gpus=-0.5", r"^pool\.gpus: Expected `float` >= 0\.0, found -0\.5"),
        ("lake=3", r"^recipe\.lake: Expected `str`, got `int`, found 3"),
        ("jobs=3", r"^recipe\.jobs: Expected `object`"),
        ("caches.two.model=smal", r"^caches\.two\.model = 'smal': there is no \[models\.smal\]; did you mean small\?"),
    ],
)
def test_a_wrong_field_is_named_with_its_table(setting, message):
    with pytest.raises(InputError, match=message):
        opened(changed(setting), "/work", "night")


@pytest.mark.parametrize("kind", ["models", "corpora", "caches", "jobs"])
@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "two words"])
def test_names_of_tables_are_plain(kind, name):
    with pytest.raises(InputError, match=rf"^\[{kind}\..* is named .*use letters"):
        opened({**TABLE, kind: {name: next(iter(TABLE[kind].values()))}}, "/work", "night")


# --- --set


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ('["embed", "resid.1"]', ["embed", "resid.1"]),
        ('{kind = "topk", k = 3}', {"kind": "topk", "k": 3}),
        ('"3"', "3"),
        ("bfloat16", "bfloat16"),
        ("s3://team/lake", "s3://team/lake"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_a_setting_is_a_toml_value_or_else_plain_text(text, value):
    assert assign({}, f"a.b={text}") == {"a": {"b": value}}


def test_a_setting_changes_one_field_of_a_copy():
    before = copy.deepcopy(TABLE)
    after = assign(TABLE, "caches.two.context=8")
    assert after["caches"]["two"] == {**TABLE["caches"]["two"], "context": 8}
    assert after["caches"]["one"] is TABLE["caches"]["one"]
    assert before == TABLE
    assert assign(TABLE, "pool.kind=local")["pool"] == {"kind": "local"}


@pytest.mark.parametrize("setting", ["lake", "=3", " =3", "lake.url=x", "caches.two.context.most=3"])
def test_a_setting_that_leads_nowhere_is_refused(setting):
    with pytest.raises(InputError, match=setting.strip()):
        assign({**TABLE, "caches": {"two": {"context": 3}}}, setting)


# --- sweeps


def test_a_sweep_is_a_job_for_every_combination_with_its_values_in_the_name():
    sweep = {"seed": [0, 1], "activation.k": [4, 8]}
    table = {"kind": "sae", "activation": {"kind": "topk", "k": 2}, "sweep": sweep}
    before = copy.deepcopy(table)
    found = expand({"dictionary": table})
    assert list(found) == [
        "dictionary[seed=0,activation.k=4]",
        "dictionary[seed=0,activation.k=8]",
        "dictionary[seed=1,activation.k=4]",
        "dictionary[seed=1,activation.k=8]",
    ]
    assert found["dictionary[seed=1,activation.k=4]"] == {
        "kind": "sae",
        "seed": 1,
        "activation": {"kind": "topk", "k": 4},
    }
    assert table == before


def test_a_list_outside_a_sweep_is_a_value():
    jobs = {"probe": {"kind": "probe", "targets": ["a", "b"]}}
    assert expand(jobs) == jobs


@pytest.mark.parametrize("sweep", [3, [0, 1], {"seed": 0}, {"seed": []}, {"seed": "01"}])
def test_a_sweep_without_lists_is_refused(sweep):
    with pytest.raises(InputError, match=r"jobs\.a\.sweep: each field takes a list of values"):
        expand({"a": {"kind": "sae", "sweep": sweep}})
