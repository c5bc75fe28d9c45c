"""Secrets are found by shape and by name; what only looks random, or speaks of secrets, is not."""

import time

import pytest

from reprokit.core.secret_scan import in_arguments, in_file, in_text, in_value

LETTERS = "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zAbCdEfGhI"
SHAPES = {
    "a token of GitHub": "ghp_" + LETTERS[:36],
    "an access key of AWS": "AKIA" + "IOSFODNN7EXAMPL3",
    "a token of Hugging Face": "hf_" + LETTERS[:34],
    "a token of Slack": "xoxb-" + "123456789012-abcdef",
    "a token of GitLab": "glpat-" + LETTERS[:20],
    "a key of Google": "AIza" + LETTERS[:35],
    "a key of OpenAI or Anthropic": "sk-" + "proj-" + LETTERS,
    "a token of PyPI": "pypi-AgE" + LETTERS + LETTERS,
    "a token of npm": "npm_" + LETTERS[:36],
    "a key of Stripe": "sk_live_" + LETTERS[:24],
    "a private key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
    "a JSON Web Token": ".".join(["eyJhbGciOiJIUzI1NiJ9", "eyJzdWIiOiIxMjM0In0", "c2lnbmF0dXJlLW9mLWl0"]),
    "a URL with credentials": "https://someone:" + "hunter2@example.org/data",
    "a URL with a token": "https://example.org/data?token=" + "hunter2hunter2",
}


@pytest.mark.parametrize(("what", "text"), SHAPES.items())
def test_a_known_shape_is_found_wherever_it_stands(what, text):
    assert [str(one) for one in in_text(f"x {text} y", "params.x")] == [f"params.x: {what}"]
    assert [one.what for one in in_value({"a": ["", {"b": text}]}, "params")] == [what]
    assert [one.what for one in in_arguments(["python", text], "code.command")] == [what]
    assert str(next(in_file(f"\n\nx = '{text}'\n".encode(), "a.py", "code/a.py"))) == f"code/a.py, line 3: {what}"
    assert what in [one.what for one in in_file(b"\0\xff" * 9000 + f" {text} ".encode(), "a.bin", "code/a.bin")]


@pytest.mark.parametrize(
    "name",
    [
        *("password", "token", "db_password", "dbPassword", "API_KEY", "api-key", "apikey", "client_secret"),
        *("HF_TOKEN", "access_token", "aws_secret_access_key", "PASSWD", "secret", "wandb.api_key"),
    ],
)
def test_a_name_of_secrets_with_a_value_is_found(name):
    assert [str(one) for one in in_value({name: "hunter2"}, "params")] == [f"params.{name}: a value for {name!r}"]
    assert [*in_arguments(["x", f"--{name}", "hunter2"], "code.command")]
    assert [*in_arguments(["x", f"--{name}=hunter2"], "code.command")]
    written = {
        "c.ini": f"{name} = hunter2",
        "c.yaml": f"  {name}: hunter2",
        "c.json": f'"{name}": "hunter2",',
        ".env": f"export {name}=hunter2",
        "n.ipynb": f'  "{name} = \\"hunter2\\"\\n",',
    }
    for path, line in written.items():
        if path != "n.ipynb" or name != "token":
            found = [str(one) for one in in_file(f"[x]\n{line}\n".encode(), path, f"code/{path}")]
            assert found == [f"code/{path}, line 2: a value for {name!r}"]
    assert not [*in_value({name: ""}, "params")]
    assert not [*in_value({name: None}, "params")]
    assert not [*in_value({name: "${FROM_ELSEWHERE}"}, "params")]


def test_a_password_may_be_a_number_and_a_token_is_then_one_of_text():
    assert [*in_value({"password": 1234}, "params")]
    assert not [*in_value({"token": 50256, "max_tokens": 512}, "params")]


HONEST = """
pad_token = "<pad>"; eos_token = "</s>"; tokenizer = "bert-base-uncased"; special_token = "[MASKED]"
token = "hello"  # of a sentence
password = os.environ["DB_PASSWORD"]; password = getpass.getpass("password: "); api_key = config.api_key
if password == "hunter2": raise ValueError("token: expected")
def login(user: str, password: str = "", token=None): ...
parser.add_argument("--password", help="the password"); key = "value"; primary_key = "identifier"
password_file = "/run/secrets/password"; token_type = "word"; secret_name = "database"; monkey = "banana"
url = "https://user:password@example.org"; url = f"https://{user}:{password}@host"; u = "ssh://git@github.com/a/b"
digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
uuid = "7c1e9f2a-0000-4000-8000-abcdefabcdef"
secret = f"{prefix}-{number}"; api_key = "<your key>"; api_key = "YOUR_API_KEY"; password = "********"
name = sk-learn-is-a-very-long-name
https://example.org/a?key=value&page=2 http://localhost:8080/@scope/package
"""


@pytest.mark.parametrize("path", ["a.py", "README.md", "n.ipynb"])
def test_honest_code_has_no_findings(path):
    assert [str(one) for one in in_file(HONEST.encode(), path, path)] == []


@pytest.mark.parametrize(
    "text",
    [
        '{"password": 28712, "secret": 21078, "token": 30001, "pad_token": "<pad>"}',
        "tokens: 4096\nmax_tokens: 12\nkeys:\n  - a\npassword:\n  from: env\napi_key: ${KEY}\nsecret: {{ x }}\n",
    ],
)
def test_honest_configuration_has_no_findings(text):
    assert [str(one) for one in in_file(text.encode(), "a.json", "a")] == []
    assert [str(one) for one in in_file(text.encode(), "a.yaml", "a")] == []


def test_megabytes_of_anything_are_read_in_moments():
    for piece in (b"password", b"a://b:", b"token=", b"eyJ.eyJ", b"aaaa", b'"key": "', b"key\n", b"?token="):
        began = time.perf_counter()
        list(in_file(piece * (200_000 // len(piece)), "a.json", "a"))
        assert time.perf_counter() - began < 4, piece
