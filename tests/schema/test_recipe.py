"""A recipe says exactly what is meant, or is refused at the field that does not."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprokit.core.safe_yaml import load_yaml
from reprokit.errors import RecipeError
from reprokit.locking.recipe_file import parse
from reprokit.schema.recipe import (
    Checkpoints,
    Code,
    DataInput,
    Environment,
    Execution,
    Output,
    OutputMode,
    Recipe,
    Tolerance,
    WeightTolerance,
    from_plain,
    json_schema,
    to_plain,
)
from tests.conftest import ROOT

MINIMAL = "name: mnist\ncode: {entrypoint: train.py}\n"
WORD = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)
PARAM = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,12}", fullmatch=True)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NUMBER = st.floats(0, 1)
SOURCE = st.one_of(
    st.fixed_dictionaries({"package": st.sampled_from(["a/b", "a/b:v1", "a/b@abcd"])}),
    st.fixed_dictionaries({"run": st.sampled_from(["latest", "7c1e@epoch=3", "@{-1}@best"])}),
    st.fixed_dictionaries({"run": st.just("latest"), "output": st.sampled_from(["features/", "a/b.npy", "."])}),
)
RECIPES = st.builds(
    Recipe,
    name=WORD,
    code=st.builds(Code, entrypoint=st.just("train.py"), workdir=st.sampled_from([".", "src"]))
    | st.builds(Code, command=st.just(["python", "-m", "train"])),
    environment=st.just("current") | st.builds(Environment, pip=st.just("requirements.txt")),
    data=st.dictionaries(WORD, SOURCE, max_size=3).map(
        lambda data: {name: DataInput(path=f"data/{n}", **source) for n, (name, source) in enumerate(data.items())}
    ),
    params=st.dictionaries(PARAM, JSON, max_size=3),
    execution=st.builds(
        Execution,
        seed=st.integers(0, 2**32 - 1),
        threads=st.none() | st.integers(1, 4096),
        determinism=st.sampled_from(["strict", "seeded", "off"]),
        layout=st.sampled_from(["bind", "symlink", "copy"]),
        variables=st.dictionaries(
            st.just("OMP_PROC_BIND"),
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5),
        ),
    ),
    checkpoints=st.builds(
        Checkpoints,
        package=st.none() | st.just("team/model"),
        every=st.sampled_from(["1 epoch", "5 epochs"]),
        best=st.dictionaries(WORD, st.sampled_from(["min", "max"]), max_size=2),
        keep=st.none() | st.integers(1, 100),
    ),
    outputs=st.lists(
        st.just("out") | st.builds(Output, path=st.just("out.csv"), compare=st.sampled_from(get_args(OutputMode))),
        max_size=2,
    ),
    tolerance=st.builds(
        Tolerance,
        weights=st.builds(WeightTolerance, atol=NUMBER, rtol=NUMBER),
        metrics=st.dictionaries(WORD, NUMBER, max_size=2),
    ),
)


def refused(text: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        parse(text.encode(), what="r.yaml")
    return caught.value


@given(RECIPES)
def test_plain_values_give_the_recipe_back(recipe):
    assert from_plain(to_plain(recipe)) == recipe


def test_as_few_as_one_checkpoint_may_be_kept():
    assert parse(f"{MINIMAL}checkpoints: {{keep: 1}}".encode()).checkpoints.keep == 1
    assert parse(MINIMAL.encode()).checkpoints.keep is None


def test_defaults_are_not_written():
    recipe = parse(MINIMAL.encode())
    assert to_plain(recipe) == {"name": "mnist", "code": {"entrypoint": "train.py"}}
    assert (recipe.checkpoint_package, recipe.every, recipe.environment) == (
        "checkpoints/mnist",
        (1, "epoch"),
        "current",
    )
    assert (recipe.execution.determinism, recipe.execution.seed) == ("strict", 0)


@pytest.mark.parametrize(
    ("extra", "message", "guess"),
    [
        ("pramas: {}", "unknown key pramas.", "Did you mean 'params'? "),
        ("data: {images: {pakage: a/b, path: x}}", "unknown key data.images.pakage.", "Did you mean 'package'? "),
        ("execution: {sead: 1}", "unknown key execution.sead.", "Did you mean 'seed'? "),
        (
            "outputs: [{path: x, compare: pixel}]",
            "outputs[0].compare: 'pixel' is not known.",
            "Did you mean 'pixels'? Known here: bytes, values, pixels, lines, ignore.",
        ),
        ("outputs: [{path: x, compair: bytes}]", "unknown key outputs[0].compair.", "Did you mean 'compare'? "),
        ("environment: {cnda: x}", "unknown key environment.cnda.", "Did you mean 'conda'? "),
        ("tolerance: {weights: {qqqq: 1}}", "unknown key tolerance.weights.qqqq.", "Known here: atol, rtol."),
        ("1: x", "unknown key 1.", "Known here: name, code,"),
        ("environment: curent", "environment: 'curent' is not known.", "Did you mean 'current'? "),
        (
            "execution: {determinism: strikt}",
            "execution.determinism: 'strikt' is not known.",
            "Did you mean 'strict'? ",
        ),
        ("checkpoints: {best: {loss: mni}}", "checkpoints.best.loss: 'mni' is not known.", "Did you mean 'min'? "),
    ],
)
def test_unknown_words_are_named_with_what_was_meant(extra, message, guess):
    error = refused(MINIMAL + extra)
    assert error.message == f"r.yaml: {message}"
    assert error.hint is not None
    assert error.hint.startswith(guess)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "r.yaml is empty."),
        ("[a]", "r.yaml must be a mapping with the keys name and code, not a list."),
        ("train.py", "r.yaml must be a mapping with the keys name and code, not a text."),
        ("name: x", "r.yaml: missing the key code."),
        ("name: x\ncode: {}", "code: give exactly one of entrypoint, command and notebook."),
        ("name: x\ncode: {entrypoint: a, command: [b]}", "code: give exactly one of entrypoint, command and notebook."),
        ("name: x\ncode: {entrypoint: a, notebook: b}", "code: give exactly one of entrypoint, command and notebook."),
        ("name: x\ncode: {notebook: ../a.ipynb}", "code.notebook: '../a.ipynb' is not a path inside the repository."),
        (
            f"name: x\ncode: {{notebook: a}}\nenvironment: {{container: 'x@sha256:{'a' * 64}'}}",
            "code.notebook is not executed in a container by this release.",
        ),
        (
            "name: x\ncode: {notebook: a}\nexecution: {params: flags}",
            "execution.params: a notebook has no command line that flags could be on.",
        ),
        ("name: x\ncode: {entrypoint: ../a.py}", "code.entrypoint: '../a.py' is not a path inside the repository."),
        ("name: é\ncode: {entrypoint: a}", "name: 'é' must be ASCII letters, digits, '_' and '-'."),
        (MINIMAL + "execution: {seed: '1'}", "r.yaml: execution.seed: expected int, got str."),
        (MINIMAL + "execution: {seed: -1}", "execution.seed: -1 is not in 0 … 4294967295."),
        (MINIMAL + "execution: {seed: 4294967296}", "execution.seed: 4294967296 is not in 0 … 4294967295."),
        (MINIMAL + "execution: {threads: 0}", "execution.threads: 0 is not in 1 … 4096."),
        (MINIMAL + "params: {lr: .nan}", "params: a value is NaN, infinite or not JSON; write it as a string."),
        (MINIMAL + "data: {x: {path: d}}", "data.x: give exactly one of package and run."),
        (MINIMAL + "data: {x: {path: d, package: a}}", "Not a package name: 'a'."),
        (
            MINIMAL + "checkpoints: {every: 10 hours}",
            "checkpoints.every: '10 hours' is not '<n> epochs', '<n> steps' or '<n> minutes'.",
        ),
        (MINIMAL + "checkpoints: {keep: 0}", "checkpoints.keep: 0 is not at least 1."),
        (
            MINIMAL + "data: {x: {path: d, package: a/b, output: f}}",
            "data.x.output: only a run has outputs, and a/b is a package.",
        ),
        (
            MINIMAL + "data: {x: {path: d, run: latest@best, output: f}}",
            "data.x: 'latest@best' names a checkpoint, and a checkpoint has no outputs.",
        ),
        (
            MINIMAL + "data: {x: {path: d, run: latest, output: ../f}}",
            "data.x.output: '../f' is not a path inside the repository.",
        ),
        (MINIMAL + "checkpoints: {package: runs/x}", "checkpoints.package: the namespace 'runs' is reprokit's own."),
        (MINIMAL + "outputs: [/etc]", "outputs: '/etc' is not a path inside the repository."),
        *(
            (
                f"name: x\ncode: {{command: {command}}}",
                "code.command: must be a list of at least one word, such as [python, train.py].",
            )
            for command in ("[]", "['']", "['', a]")
        ),
        (
            MINIMAL + "execution: {variables: {REPROKIT_X: y}}",
            "execution.variables: 'REPROKIT_X' is not a variable that a recipe may set.",
        ),
    ],
)
def test_faults_are_named_by_their_field(text, message):
    assert refused(text).message.removeprefix("r.yaml: ") == message.removeprefix("r.yaml: ")


@pytest.mark.parametrize(("first", "second"), [("d", "d"), ("d", "d/e"), ("d/e", "d"), ("d", "."), (".", "d")])
def test_data_never_overlaps(first, second):
    data = f"data: {{a: {{package: x/y, path: {first}}}, b: {{package: x/y, path: {second}}}}}"
    message = refused(MINIMAL + data).message
    assert message.removeprefix("r.yaml: ") == f"data.b.path: {second!r} overlaps with data.a.path: {first!r}."


@pytest.mark.parametrize(
    "tolerance",
    [
        "weights: {atol: .nan}",
        "weights: {rtol: .inf}",
        "weights: {atol: -1.0}",
        "metrics: {a: .nan}",
        "metrics: {a: -1.0}",
    ],
)
def test_tolerances_are_finite_and_not_negative(tolerance):
    assert "tolerance" in refused(MINIMAL + f"tolerance: {{{tolerance}}}").message


@pytest.mark.parametrize("params", ["{a: {1: x}}", "{a: {null: x}}", "{1: x}", "{a: [{true: x}]}"])
def test_keys_of_params_are_text_at_every_depth(params):
    assert "params" in refused(MINIMAL + f"params: {params}").message


def test_off_is_a_word_and_1e_3_a_number():
    recipe = parse((MINIMAL + "params: {lr: 1e-3, norm: off}\nexecution: {determinism: off}").encode())
    assert recipe.params == {"lr": 0.001, "norm": "off"}
    assert recipe.execution.determinism == "off"


def test_the_schema_names_every_key():
    schema = json_schema()
    assert schema["title"] == "reprokit recipe"
    assert set(schema["$defs"]["Recipe"]["properties"]) == set(Recipe.__struct_fields__)


def test_the_published_schema_accepts_our_recipes_and_refuses_a_misspelt_key():
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    schema = json_schema()
    files = [*ROOT.glob("recipes/*.yaml"), *ROOT.glob("examples/*/*.yaml")]
    assert len(files) >= 12
    for file in files:
        value = load_yaml(file.read_bytes(), what=file.name)
        jsonschema.validate(value, schema)
        from_plain(value, what=file.name)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**value, "parms": {}}, schema)


@pytest.mark.parametrize(
    "image", ["python", "python:3.11", f"python:3.11@sha256:{'5' * 63}", f"sha256:{'5' * 64}", f"P@sha256:{'5' * 64}"]
)
def test_an_image_is_named_by_its_digest(image):
    good = f"docker.io/library/python:3.11@sha256:{'5' * 64}"
    assert parse(f"{MINIMAL}environment: {{container: '{good}'}}".encode(), what="r.yaml").image == good
    error = refused(f"{MINIMAL}environment: {{container: '{image}'}}")
    assert error.message == (f"r.yaml: environment.container: {image!r} names no image by its digest; a tag may move.")


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x"])
@pytest.mark.parametrize("where", ["workdir", "entrypoint"])
def test_paths_of_the_code_stay_inside(where, path):
    code = {"entrypoint": "train.py", where: path}
    with pytest.raises(RecipeError, match=rf"code\.{where}"):
        from_plain({"name": "n", "code": code})


@pytest.mark.parametrize(
    ("every", "read"),
    [
        ("3 epochs", (3, "epoch")),
        ("1 epoch", (1, "epoch")),
        ("500 steps", (500, "step")),
        ("10 minutes", (10, "minute")),
    ],
)
def test_how_often_a_checkpoint_is_saved(every, read):
    assert from_plain({"name": "n", "code": {"entrypoint": "t.py"}, "checkpoints": {"every": every}}).every == read
    assert from_plain({"name": "n", "code": {"entrypoint": "t.py"}}).every == (1, "epoch")


@pytest.mark.parametrize("name", ["a b", "é", "", "a/b", "../x"])
def test_the_name_of_an_input_is_a_word(name):
    plain = {"name": "n", "code": {"entrypoint": "t.py"}}
    with pytest.raises(RecipeError, match=r"must be ASCII letters, digits, '_' and '-'"):
        from_plain({**plain, "data": {name: {"package": "a/b", "path": "in"}}})


def test_only_what_has_extras_takes_some():
    plain = {"name": "n", "code": {"entrypoint": "t.py"}}
    for environment in ({"pip": "pyproject.toml"}, {"lock": "pylock.toml"}):
        assert from_plain({**plain, "environment": {**environment, "extras": ["x"]}}).environment.extras == ["x"]
    for environment in ({"pip": "requirements.txt"}, {"pip": ".toml.txt"}, {"conda": "environment.yml"}):
        with pytest.raises(RecipeError, match=r"only a pyproject\.toml or a pylock\.toml has extras"):
            from_plain({**plain, "environment": {**environment, "extras": ["x"]}})


@pytest.mark.parametrize(
    "pattern", ["/a/b", "*/b", "/*/b", "/a/..b", "/a/b..", "*/.cache/hub/*.lock", "/a?b", "/...x", "/[!a]*"]
)
def test_a_pattern_names_files_by_their_whole_path(pattern):
    recipe = from_plain({"name": "n", "code": {"entrypoint": "t.py"}, "execution": {"benign": ["/x", pattern]}})
    assert recipe.execution.benign == ["/x", pattern]


@pytest.mark.parametrize(
    "pattern",
    ["", "a/b", "~/x", ".*/b", "a*/b", "*", "/", "/*", "*/", "*/*", "/..", "/a/../b", "*/..", "/.", "/??.*", "/a:b"],
)
def test_a_pattern_that_names_no_files_by_their_whole_path_is_refused(pattern):
    with pytest.raises(RecipeError) as caught:
        from_plain({"name": "n", "code": {"entrypoint": "t.py"}, "execution": {"benign": ["/x", pattern]}})
    assert caught.value.message == f"recipe: execution.benign: {pattern!r} names no files by their whole path."


@pytest.mark.parametrize(
    ("environment", "declared"),
    [
        (Environment(), None),
        (Environment(vault="all"), None),
        (Environment(container=f"x@sha256:{'5' * 64}"), None),
        (Environment(conda="environment.yml"), ("conda", "environment.yml")),
        (Environment(pip="requirements.txt"), ("pip", "requirements.txt")),
        (Environment(lock="pylock.toml", extras=["x"]), ("lock", "pylock.toml")),
    ],
)
def test_an_environment_declares_the_file_that_is_solved_and_its_kind(environment, declared):
    assert environment.declared == declared
