"""Every bad input ends with one message that says what was wanted, what was found and what to do, and with its code.

Exit code 2 comes before any model is loaded: the weights here are nonsense, so a run that loaded them would say so.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
from transformers import AutoTokenizer

import pipeline
from pipeline.__main__ import main
from storage import InputError, Lake
from storage.artifact import ArtifactWriter
from storage.manifest import SCHEMA
from storage.value import signed
from tests.pipeline.tiny import CONTEXT, save_vision, write_lines, write_pictures
from tests.pipeline.worlds import HARVEST, RECIPE, World

LOADED = "cannot be loaded"
"""What a run says that got as far as the weights."""


@pytest.fixture
def world(tmp_path, decoder):
    """A world in which everything is right except that the weights are nonsense."""
    made = World(tmp_path, decoder)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"nonsense")
    return made


@pytest.fixture
def refused(world, capsys):
    """`refused(*settings, says=(...))`: exit code 2, one message with all of that, nothing loaded, nothing written."""

    def check(*settings, says, command="run"):
        refuse(capsys, lambda: world.run(*settings, command=command), says)
        assert not world.lake.exists()

    return check


def message(capsys, code, wanted_code):
    """The one message on standard error."""
    captured = capsys.readouterr()
    assert code == wanted_code, captured.err
    assert captured.err.startswith("garner: ")
    assert captured.err.count("garner: ") == 1
    assert "Traceback" not in captured.err
    return captured.err


def refuse(capsys, run, says):
    """`run` gives exit code 2 and says all of `says`."""
    said = message(capsys, run(), 2)
    assert LOADED not in said
    for part in says:
        assert part in said


def test_nonsense_weights_are_noticed_by_a_run_that_loads_them(world, capsys):
    assert LOADED in message(capsys, world.run(), 2)


# --- the recipe itself

KEYS = {
    "in the whole": ("lakes=x", ("recipe", "`lakes`", "did you mean lake?", "pool")),
    "in a model": ("models.tiny.nme=x", ("models.tiny", "`nme`", "did you mean name?")),
    "in a corpus": ("corpora.words.txt=x", ("corpora.words", "`txt`", "did you mean text?")),
    "in a cache": ("caches.tiny.contxt=3", ("caches.tiny", "`contxt`", "did you mean context?", "nonfinite")),
    "in a job": ("jobs.dictionary.widht=3", ("jobs.dictionary", "`widht`", "did you mean width?")),
    "in a job's union": (
        'jobs.dictionary.activation={kind="topk",kk=3}',
        ("jobs.dictionary.activation", "`kk`", "did you mean k?"),
    ),
    "in a sweep": ("jobs.dictionary.sweep.sed=[0, 1]", ("jobs.dictionary[sed=0]", "`sed`", "did you mean seed?")),
    "in the pool": ("pool.gpu=1", ("pool", "`gpu`", "did you mean gpus?")),
    "in the tokenisation": ("caches.tiny.tokenise={specal=true}", ("caches.tiny.tokenise", "`specal`", "special")),
}


@pytest.mark.parametrize("where", KEYS)
def test_a_misspelt_key_is_refused_with_its_place_and_the_keys_there_are(where, refused):
    setting, says = KEYS[where]
    refused(setting, says=says)


VALUES = {
    "text for a number": ('caches.tiny.context="long"', ("caches.tiny.context", "`int", "'long'")),
    "text for a job's number": ('jobs.dictionary.width="wide"', ("jobs.dictionary.width", "`int`", "'wide'")),
    "a number for a site": ("caches.tiny.sites=[3]", ("caches.tiny.sites[0]", "a site in quotes", "found 3")),
    "a number for a table": ("caches.tiny=3", ("caches.tiny", "`object`", "found 3")),
    "a number for all caches": ("caches=3", ("recipe.caches", "`object`", "found 3")),
    "a number type that none knows": ("caches.tiny.dtype=int4", ("caches.tiny.dtype", "'int4'", "bfloat16, float16")),
    "a pool that none knows": ("pool.kind=dask", ("pool.kind", "'dask'", "local, ray")),
    "an activation that none knows": (
        'jobs.dictionary.activation={kind="topkk"}',
        ("jobs.dictionary.activation.kind", "'topkk'", "did you mean topk?", "relu"),
    ),
    "a table without its kind": (
        "jobs.dictionary.activation={k=3}",
        ("jobs.dictionary.activation", "missing required field `kind`"),
    ),
    "a job without its cache": ('jobs.dictionary={kind="sae"}', ("jobs.dictionary", "field `cache`: add it")),
    "a job without kind": ('jobs.dictionary={cache="tiny"}', ("jobs.dictionary has no kind", "add one of", "sae")),
    "an unknown job kind": ("jobs.dictionary.kind=sea", ("dictionary.kind = 'sea'", "did you mean sae?", "probe")),
    "a job kind that is no text": ("jobs.dictionary.kind=3", ("jobs.dictionary.kind", "= 3", "probe")),
    "a sweep that is no list": ("jobs.dictionary.sweep.seed=0", ("jobs.dictionary.sweep", "seed = [0, 1]", "found")),
    "a negative context": ("caches.tiny.context=-3", ("caches.tiny.context", ">= 1", "found -3")),
    "no context at all": ("caches.tiny.context=0", ("caches.tiny.context", ">= 1", "found 0")),
    "a context beyond the model's": (
        f"caches.tiny.context={CONTEXT + 1}",
        (f"caches.tiny.context = {CONTEXT + 1}", f"at most {CONTEXT} tokens", "lower it"),
    ),
    "a context in two places": (
        "caches.tiny.tokenise={context=8}",
        ("caches.tiny.tokenise.context = 8", "write it as caches.tiny.context"),
    ),
    "a negative unit": ("caches.tiny.unit=-4", ("caches.tiny.unit", ">= 1", "found -4")),
    "a unit that is no power of two": ("caches.tiny.unit=100", ("caches.tiny", "unit = 100", "power of two", "65536")),
    "no site": ("caches.tiny.sites=[]", ("caches.tiny", "sites is empty", 'sites = ["resid.3"]')),
    "the same site twice": (
        'caches.tiny.sites=["resid.0","blocks.0.hook_resid_post"]',
        ("caches.tiny", "sites must differ", "resid.0, resid.0"),
    ),
    "a site that none knows": ('caches.tiny.sites=["resd.0"]', ("caches.tiny.sites[0]", "'resd.0'", "resid.L")),
    "a layer out of range": ('caches.tiny.sites=["resid.2"]', ("caches.tiny.sites", "resid.2", "blocks 0..1")),
    "a module that is not there": (
        'caches.tiny.sites=["module:h.7"]',
        ("caches.tiny.sites", "'h.7'", "the nearest are h."),
    ),
    "a model that is not defined": ("caches.tiny.model=tny", ("caches.tiny.model = 'tny'", "did you mean tiny?")),
    "a corpus that is not defined": ("caches.tiny.corpus=wrds", ("caches.tiny.corpus = 'wrds'", "did you mean words?")),
    "a cache that is not defined": ("jobs.dictionary.cache=tny", ("cache 'tny'", "did you mean tiny?", "lake")),
    "a site that the cache lacks": (
        "jobs.dictionary.site=resid.1",
        ("embed, resid.0", "'dictionary' asks for resid.1", "add it to [caches.tiny]"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", VALUES)
def test_a_value_that_cannot_be_is_refused_with_its_place_and_what_may_be(what, refused):
    setting, says = VALUES[what]
    refused(setting, says=says)


@pytest.mark.parametrize("setting", ["lake", "=3", "lake.x=3"])
def test_a_setting_that_sets_nothing_is_refused(setting, refused):
    refused(setting, says=(setting,))


NAMES = {"[jobs.dictionary]": '[jobs."../../x"]', "[caches.tiny]": '[caches."../x"]', "[models.tiny]": '[models."a/b"]'}


@pytest.mark.parametrize("table", NAMES)
def test_a_table_named_like_a_path_is_refused(table, world, refused):
    world.recipe.write_text(RECIPE.replace(table, NAMES[table]))
    refused(says=("is named", NAMES[table].split('"')[1], "letters, digits"))


def test_an_artifact_named_like_a_path_is_refused_and_so_is_a_job_s_file(world, capsys):
    refuse(capsys, lambda: main(["show", str(world.lake), "../../recipe.toml"]), ("'../../recipe.toml'", "letters"))
    refuse(capsys, lambda: main(["verify", str(world.lake), "../x"]), ("'../x'", "letters, digits"))
    lake = Lake(str(world.lake))
    with pytest.raises(InputError, match=r"an artifact is named '\.\./x': use letters"):
        lake.artifact("../x")
    with pytest.raises(InputError, match=r"a job named a file '\.\./x': use plain names"):
        ArtifactWriter(lake.artifact_folder("sae-0")).write("../x", b"")
    assert not world.lake.exists()


FILES = {
    "is not there": (None, ("there is no recipe", "recipe.toml; name a file")),
    "is not TOML": (b"lake = \n", ("is not TOML", "line 1", "correct that line")),
    "is not UTF-8": (b"lake = '\xff'\n", ("is not UTF-8", "0xff", "save it as UTF-8")),
}


@pytest.mark.parametrize("what", FILES)
def test_a_recipe_that_cannot_be_read_is_refused(what, world, capsys):
    content, says = FILES[what]
    other = world.folder / "other.toml"
    if content is not None:
        other.write_bytes(content)
    refuse(capsys, lambda: main(["run", str(other)]), says)


def test_a_recipe_that_is_a_folder_or_lies_below_a_file_is_refused(world, capsys):
    for path in (world.folder, world.recipe / "recipe.toml"):
        refuse(capsys, lambda path=path: main(["run", str(path)]), ("there is no recipe", "name a file"))


# --- the corpus


def test_no_such_corpus_file_is_refused_with_what_is_there(refused):
    refused("corpora.words.files=corpus/*.txt", says=("no file matches", "corpus/*.txt", "a.jsonl", "Correct"))
    refused("corpora.words.files=corpsu/*.txt", says=("no file matches", "there is no folder", "Correct"))
    refused("corpora.words.files=corpus", says=("is a folder", "wanted a glob"))


def test_a_corpus_without_the_column_is_refused_with_the_columns_it_has(refused):
    refused("corpora.words.text=body", says=("a.jsonl", "no column 'body'", "text, long", "Name one of these"))
    refused('corpora.words.labels=["topic"]', says=("a.jsonl", "no column 'topic'", "text, long"))


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_corpus_is_refused(content, world, refused):
    (world.folder / "corpus" / "a.jsonl").write_text(content)
    refused(says=("the corpus is empty", "a.jsonl", "Fill"))


def test_a_scheme_that_fsspec_does_not_know_is_refused(refused):
    refused("corpora.words.files=nope://x/*.txt", says=("nope://x", "Protocol not known", "name local files"))
    refused("lake=nope://x", says=("nope://x", "Protocol not known", "name a folder"))


def test_a_context_for_a_vocabulary_is_refused(refused):
    vocabulary = "corpora.words={vocabulary=true}"
    refused(vocabulary, says=("caches.tiny.context = 16", "entries have no context", "leave it out"))


def test_a_vocabulary_has_only_its_tables(world, refused):
    world.recipe.write_text(RECIPE.replace("context = 16", ""))
    refused("corpora.words={vocabulary=true}", says=("caches.tiny.sites", "embed and unembed", "found resid.0"))


def test_images_for_a_text_model_and_text_for_a_vision_model_are_refused(world, tmp_path, refused):
    write_pictures(tmp_path / "images", 2)
    refused('corpora.words={images="images/*.png"}', says=("reads text", "'words' holds images", "another corpus"))
    save_vision(tmp_path / "vision")
    refused("models.tiny.name=vision", says=("reads images", "'words' holds text", "another corpus"))


def test_a_tokenisation_that_the_corpus_is_not_for_is_refused(refused):
    for kind in ("chat", "entries", "pack"):
        says = ("caches.tiny.tokenise.kind", repr(kind), "holds text", "documents or packed")
        refused(f'caches.tiny.tokenise={{kind="{kind}"}}', says=says)


# --- the model


def test_a_hub_model_that_is_not_there_is_refused_off_line(refused, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("models.tiny.name=nobody/nothing", says=("no model 'nobody/nothing'", "off line", "check the name"))


def test_a_model_folder_that_is_not_there_or_not_whole_is_refused(world, refused):
    refused("models.tiny.name=./modl", says=("no model at", "modl", "no such folder", "check the path"))
    (world.folder / "model" / "model.safetensors").unlink()
    refused(says=("holds no weights", "model.safetensors", "save the model again"))
    (world.folder / "model" / "config.json").write_text("{")
    refused(says=("config.json is not JSON", "save the model again"))
    (world.folder / "model" / "config.json").unlink()
    refused(says=("no config.json", "save_pretrained"))


def without(world, name, *keys):
    """Takes keys out of a JSON file of the model."""
    path = world.folder / "model" / name
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_bytes()).items() if key not in keys}))


def test_a_chat_model_without_a_template_is_refused_before_anything_starts(world, refused):
    (world.folder / "model" / "chat_template.jinja").unlink()
    write_lines(world.folder / "chats" / "a.jsonl", [{"messages": [{"role": "user", "content": "hi"}]}])
    corpus = 'corpora.words={files="chats/*.jsonl",messages="messages"}'
    refused(corpus, says=("caches.tiny", "no chat template", "use a chat model"))


def test_packing_without_a_separator_is_refused_before_anything_starts(world, refused):
    without(world, "tokenizer_config.json", "eos_token", "sep_token")
    says = ("caches.tiny", "neither an eos nor a sep token", "one sequence per document")
    refused('caches.tiny.tokenise={kind="packed"}', says=says)


def test_a_missing_or_damaged_tokenizer_is_refused_before_anything_starts(world, refused):
    whole = (world.folder / "model" / "tokenizer.json").read_bytes()
    (world.folder / "model" / "tokenizer.json").write_bytes(whole[: len(whole) // 2])
    refused(says=("caches.tiny", "has no tokenizer", "save the tokenizer"))
    (world.folder / "model" / "tokenizer.json").unlink()
    (world.folder / "model" / "tokenizer_config.json").unlink()
    refused(says=("caches.tiny", "has no tokenizer", "save the tokenizer"))


# --- the lake


def test_a_lake_that_cannot_be_written_is_refused(world, refused):
    refused("lake=/proc/lake", says=("cannot write /proc/lake/", "there is no such place", "name another"))
    refused("lake=recipe.toml/lake", says=("recipe.toml/lake", "below", "name a folder"))
    refused("lake=recipe.toml", says=("recipe.toml", "is a file", "name a folder"))
    assert world.recipe.read_text() == RECIPE


def test_a_lake_of_one_process_is_refused_for_ray(refused):
    says = ("memory://one", '[pool] kind = "local"', "use a folder")
    refused("lake=memory://one", "pool.kind=ray", says=says)


def test_a_lake_of_a_newer_schema_is_refused(world, capsys):
    world.run(command="plan")
    folder = next(word for word in capsys.readouterr().out.split() if word.startswith("model.corpus-")).rstrip(":")
    record = world.lake / "caches" / folder / "cache.json"
    record.parent.mkdir(parents=True)
    record.write_bytes(signed({"schema": SCHEMA + 1, "shape": "unheard of"}))
    refuse(capsys, world.run, ("cache.json", f"schema {SCHEMA + 1}", f"reads schema {SCHEMA}", "upgrade garner"))
    refuse(capsys, lambda: main(["show", str(world.lake), folder]), (f"schema {SCHEMA + 1}", "upgrade garner"))
    assert main(["ls", str(world.lake)]) == 0  # which hides no other cache for it
    assert f"schema {SCHEMA + 1}" in capsys.readouterr().out
    assert list(world.lake.rglob("*")) == [record.parent.parent, record.parent, record]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": "two"}'])
def test_a_cache_whose_record_is_damaged_is_named_and_not_opened(content, world, capsys):
    record = world.lake / "caches" / "tiny.words-0" / "cache.json"
    record.parent.mkdir(parents=True)
    record.write_bytes(content)
    assert main(["show", str(world.lake), "tiny.words-0"]) == 1
    assert f"{record} is damaged: its checksum does not match" in capsys.readouterr().err
    assert main(["ls", str(world.lake)]) == 0
    assert "tiny.words-0" in (said := capsys.readouterr().out)
    assert "is damaged" in said


def test_a_cache_of_the_schema_before_checksums_is_refused(world, capsys):
    record = world.lake / "caches" / "tiny.words-0" / "cache.json"
    record.parent.mkdir(parents=True)
    record.write_bytes(b'{"schema": 1}')
    refuse(capsys, lambda: main(["show", str(world.lake), "tiny.words-0"]), ("schema 1", "harvest it again"))


def test_names_and_lakes_that_are_not_there_are_refused(world, capsys):
    nowhere = str(world.folder / "nowhere")
    refuse(capsys, lambda: main(["ls", nowhere]), ("nowhere holds no cache", "is the URL right?"))
    refuse(capsys, lambda: main(["verify", nowhere]), ("nowhere holds no cache", "is the URL right?"))
    for command in ("show", "verify"):
        refuse(capsys, lambda c=command: main([c, nowhere, "tiny"]), ("nowhere has no cache 'tiny'", "holds none"))
    refuse(capsys, lambda: main(["ls", str(world.recipe)]), ("recipe.toml is a file", "name a folder"))
    refuse(capsys, lambda: main(["verify", nowhere, "--sequences", "0"]), ("--sequences 0", "at least 1"))
    refuse(capsys, lambda: main(["report", str(world.recipe)]), ("no job of recipe is finished", "garner run it"))


def test_harvest_refuses_what_a_recipe_would(world, capsys):
    lake, corpus = str(world.lake), str(world.folder / "corpus" / "*.jsonl")

    def harvest(*flags, model="model"):
        return lambda: main(["harvest", str(world.folder / model), corpus, "--lake", lake, *flags])

    refuse(capsys, harvest("--site", "resid.9"), ("resid.9", "blocks 0..1"))
    refuse(capsys, harvest("--site", "embed", "--dtype", "int4"), ("'int4'", "bfloat16"))
    refuse(capsys, harvest("--site", "embed", "--context", "-1"), (".context", ">= 1", "found -1"))
    refuse(capsys, harvest("--site", "embed", model="modl"), ("no model at", "modl"))
    assert not world.lake.exists()


def test_a_command_line_that_says_nothing_is_refused(capsys):
    for words in ([], ["rn"], ["run"], ["harvest", "m", "c"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        assert "usage: garner" in capsys.readouterr().err


# --- what only shows while it runs


def test_documents_without_a_token_are_refused_until_there_is_one(world, capsys):
    """Before the weights are read; an empty document among others is only counted."""
    corpus = world.folder / "corpus"
    write_lines(corpus / "a.jsonl", [{"text": "", "long": False}])
    for _ in range(2):
        refuse(capsys, world.run, ("tiny", "1 documents have no row", "give it some with text"))
    write_lines(corpus / "b.jsonl", [{"text": "a", "long": False}])
    assert LOADED in message(capsys, world.run(), 2)


def test_a_file_of_empty_documents_alone_is_a_segment_without_rows(running):
    assert running.run() == 0
    write_lines(running.folder / "corpus" / "b.jsonl", [{"text": "", "long": False}])
    assert running.run() == 0
    (cache,) = (Lake(str(running.lake)).cache(name) for name in Lake(str(running.lake)).caches())
    assert [segment.plan.rows for segment in cache.segments] == [len(cache.site("embed")), 0]
    assert main(["verify", str(running.lake)]) == 0


@pytest.fixture
def running(tmp_path, decoder):
    """A world with nothing wrong, and a recipe that only harvests."""
    made = World(tmp_path, decoder)
    made.recipe.write_text(HARVEST)
    return made


def failed(capsys, world, *settings, says):
    """The run ends with exit code 1 and one message, and no site can be read."""
    said = message(capsys, world.run(*settings), 1)
    for part in says:
        assert part in said
    assert not list(world.lake.rglob("sealed"))


def test_bytes_that_are_not_utf8_end_the_run_with_their_line(running, capsys):
    path = running.folder / "corpus" / "b.jsonl"
    path.write_bytes(b'{"text": "fine", "long": true}\n{"text": "caf\xe9", "long": true}\n')
    failed(capsys, running, says=("b.jsonl, line 2", "0xe9 is not UTF-8", "Convert"))


@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_a_corrupted_parquet_file_ends_the_run_with_its_name(damage, running, capsys):
    texts = ["".join(map(chr, np.random.default_rng(n).integers(97, 123, 200))) for n in range(50)]
    path = running.folder / "parquet" / "a.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"text": texts, "long": [True] * 50}), path)
    whole = path.read_bytes()
    shutil.copy(path, path.with_name("0.parquet"))  # the first file is whole
    path.write_bytes(whole[:-9] if damage == "cut off" else whole[:40] + b"\xff" * 400 + whole[440:])
    failed(capsys, running, "corpora.words.files=parquet/*.parquet", says=("/a.parquet", "damaged Parquet", "again"))


def poisoned(world, letter, value):
    """Gives the embedding of one letter a value that spoils it; the token's id."""
    return poisoned_token(world, AutoTokenizer.from_pretrained(world.folder / "model")(letter)["input_ids"][0], value)


def poisoned_token(world, token, value):
    path = world.folder / "model" / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    weights["wte.weight"][token, 0] = value
    safetensors.torch.save_file(weights, path, metadata={"format": "pt"})
    return token


def write_poison(world):
    """Documents of which only the second and third hold the letter z: twice, and once at the start."""
    texts = ["no such letter", "one z and a z here", "z first", "none again"]
    write_lines(world.folder / "corpus" / "a.jsonl", [{"text": text, "long": False} for text in texts])


def test_a_model_that_gives_nan_ends_the_run_with_site_and_document(running, capsys):
    write_poison(running)
    poisoned(running, "z", float("nan"))
    failed(capsys, running, says=("site embed", "'a.jsonl:1'", "NaN or infinity", "nonfinite = true"))


def test_rows_that_are_not_finite_are_kept_and_counted_where_the_recipe_allows_them(running, capsys):
    write_poison(running)
    token = poisoned(running, "z", float("nan"))
    assert running.run("caches.tiny.nonfinite=true", "caches.tiny.context=32") == 0
    capsys.readouterr()
    (cache,) = (Lake(str(running.lake)).cache(name) for name in Lake(str(running.lake)).caches())
    embed, resid = cache.site("embed"), cache.site("resid.0")
    bad = np.flatnonzero(~np.isfinite(embed[:]).all(axis=1))
    np.testing.assert_array_equal(bad, np.flatnonzero(cache.tokens.ids(slice(None)) == token))
    assert (embed.moments.nonfinite, embed.moments.count) == (3, len(embed) - 3)
    spoilt = np.flatnonzero(~np.isfinite(resid[:]).all(axis=1))  # attention carries it, but not to other documents
    assert resid.moments.nonfinite == len(spoilt) > 3
    assert set(cache.tokens.documents(spoilt).tolist()) == {1, 2}
    assert np.isfinite(embed.moments.mean).all()
    assert main(["verify", str(running.lake)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if " embed " in line).endswith("3 rows not finite")


def test_a_spoilt_token_that_no_document_holds_spoils_no_row(running):
    poisoned_token(running, 0, float("nan"))
    assert running.run("caches.tiny.context=32") == 0


def test_a_number_too_large_for_float16_ends_the_run_with_site_and_value(running, capsys):
    write_poison(running)
    poisoned(running, "z", 1e5)
    says = ("site embed", "'a.jsonl:1'", "1e+05", "float16's largest number 6.55e+04", 'dtype = "bfloat16"')
    failed(capsys, running, "caches.tiny.dtype=float16", says=says)
    assert running.run("caches.tiny.dtype=bfloat16") == 0


def test_the_command_itself_says_one_line_and_ends_with_2(world):
    run = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", str(world.recipe), "--set", "caches.tiny.contxt=3"],
        capture_output=True,
        text=True,
        cwd=Path(pipeline.__file__).parent.parent,
        check=False,
    )
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith("garner: caches.tiny: ")
    assert run.stderr.count("\n") == 1


# --- the machine


def test_shards_that_do_not_fit_this_machines_memory_are_refused(refused):
    refused(
        "caches.tiny.unit=68719476736",
        "caches.tiny.shard=100000000",
        says=("caches.tiny: 1 workers would hold", "MiB of shards", "this machine has", "set a smaller shard"),
    )
