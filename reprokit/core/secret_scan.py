"""Finding secrets in what is about to be stored: known shapes, URLs with credentials, secret names with literal values.

How random a text looks is no finding. A finding names the place and the kind, never the value.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Finding", "in_arguments", "in_file", "in_text", "in_value"]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """What looks like a secret.

    Attributes:
        where: `params.token`, `code/config.ini`: what a recipe names to allow it.
        line: Of a file, from 1.
        what: The kind, as `a token of GitHub`.
    """

    where: str
    line: int | None
    what: str

    def __str__(self) -> str:
        return f"{self.where}{'' if self.line is None else f', line {self.line}'}: {self.what}"


# Each with texts of which one stands in whatever matches: most files have none of them, and are read no closer.
_SHAPES: tuple[tuple[str, tuple[str, ...], re.Pattern[str]], ...] = tuple(
    (what, anchors, re.compile(pattern))
    for what, anchors, pattern in (
        ("a private key", ("PRIVATE KEY",), r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"),
        ("a token of GitHub", ("gh",), r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})\b"),
        ("a token of GitLab", ("glpat-",), r"\bglpat-[A-Za-z0-9_-]{20,64}"),
        ("an access key of AWS", ("AKIA", "ASIA"), r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
        ("a token of Hugging Face", ("hf_",), r"\bhf_[A-Za-z0-9]{30,64}\b"),
        ("a token of Slack", ("xox",), r"\bxox[abeoprs]-[A-Za-z0-9-]{10,255}"),
        ("a key of Google", ("AIza",), r"\bAIza[0-9A-Za-z_-]{35}"),
        (
            "a key of OpenAI or Anthropic",
            ("sk-",),
            r"\bsk-(?:(?:ant-[a-z0-9]{1,8}|proj|svcacct)-[A-Za-z0-9_-]{20,255}|[A-Za-z0-9]{32,64}\b)",
        ),
        ("a key of Stripe", ("k_live_",), r"\b[rs]k_live_[A-Za-z0-9]{16,255}"),
        ("a token of PyPI", ("pypi-AgE",), r"\bpypi-AgE[A-Za-z0-9_-]{50,255}"),
        ("a token of npm", ("npm_",), r"\bnpm_[A-Za-z0-9]{36}\b"),
        ("a JSON Web Token", (".eyJ",), r"\beyJ[A-Za-z0-9_-]{8,4096}\.eyJ[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]{8,1024}"),
    )
)
_URL = re.compile(
    r"://(?:[^\s/?#@:'\"<>]{0,256}:(?P<password>[^\s/?#@'\"<>]{1,512})"
    r"|(?P<token>[A-Za-z0-9_-]{20,512}))@[^\s'\"<>]"
)
_QUERY = re.compile(
    r"[?&](?:access_token|api_?key|auth_token|password|private_token|secret|sig|signature|token|X-Amz-Signature)="
    r"(?P<value>[^&\s'\"#<>]{4,512})",
    re.IGNORECASE,
)

_PLACEHOLDER = re.compile(
    r"[<\[{$%].*|.*\$\{.*|(.)\1*|\.{2,}.*|None|null|true|false|undefined|~|REDACTED|\*+.*", re.IGNORECASE | re.DOTALL
)
_EXAMPLE = re.compile(
    r"(?:your|my|some|the|an?)?[ _-]?(?:password|passwd|pass|pw|secret|token|api[ _-]?key|key|example|changeme|"
    r"placeholder|dummy|test|foo|bar|todo|fixme|str|string|value|text)(?:[ _-]?(?:here|goes here))?",
    re.IGNORECASE,
)

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_PASSWORDS = {"password", "passwd", "passphrase", "pwd", "secret"}
_JOINED = {"apikey", "accesskey", "secretkey", "privatekey", "apitoken", "authtoken", "accesstoken"}
_KEYS = {"api", "access", "secret", "private", "encryption", "signing", "auth"}
_TOKENS = {
    "auth", "access", "refresh", "bearer", "api", "session", "hf", "hub", "huggingface", "github", "gh", "gitlab",
    "slack", "wandb", "bot", "oauth", "jwt", "personal", "deploy", "security", "secret", "user", "login", "service",
}  # fmt: skip
_ABOUT = {
    "file", "path", "dir", "length", "len", "size", "min", "max", "type", "name", "field", "id", "ids", "index",
    "count", "env", "var", "variable", "policy", "regex", "pattern", "prompt", "label", "required", "enabled", "form",
}  # fmt: skip
_HINTS = re.compile(r"passw|passphrase|pwd|secret|token|key")
_ASSIGNED = re.compile(
    r"""(?P<key>[A-Za-z_][\w.-]{0,79})\\?["']?\]?\s{0,8}(?::\s{0,8}str\s{0,8}=|:=|=>|=|:)\s{0,8}"""
    r"""(?P<prefix>[rRbBuUfF]{0,2})\\?(?P<quote>["'])(?P<value>(?:(?!\\?(?P=quote))[^\n]){1,512})\\?(?P=quote)"""
)
_BARE = re.compile(
    r"""(?P<key>[A-Za-z_][\w.-]{0,79})[ \t]{0,8}[:=][ \t]{0,8}"""
    r"""(?P<value>[^\s"'`#;,({\[|>&!@][^\n#;]{0,511}|[^\s"'`#;,({\[|>&!@])"""
)
_CONFIGURATION = re.compile(
    r"(?:.*/)?(?:[^/]+\.(?:ini|cfg|conf|config|env|properties|toml|ya?ml|json|sh|bash|secrets?)|\.env(?:\.[^/]+)?|"
    r"\.pypirc|\.npmrc|\.netrc|\.pgpass|credentials|Dockerfile(?:\.[^/]+)?)"
)
_PROSE = re.compile(r".*\.(?:md|rst|txt|csv|tsv|html?|svg|tex|lock)", re.IGNORECASE)
_NUMBER = re.compile(r"[-+0-9.eE_]+,?\s*")
_OPENING = re.compile(r"[ \t]*(?:export[ \t]+|ENV[ \t]+|ARG[ \t]+|-[ \t]+)?")
_NAME = re.compile(r"[\w.-]*", re.ASCII)
_OF_NAMES = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
_LONGEST = 80  # characters of a name


def in_value(value: Any, where: str, *, name: str = "") -> Iterator[Finding]:
    """Yield what looks like a secret in a JSON value; `where` is the value's own place, `name` its key."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from in_value(key, where)
            yield from in_value(item, f"{where}.{key}" if where else str(key), name=str(key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from in_value(item, f"{where}[{number}]", name=name)
    elif isinstance(value, str):
        found = [Finding(where, None, what) for what, _ in _shapes(value, strict=True)]
        yield from found
        if not found and value.strip() and _is_secret(name) and not _PLACEHOLDER.fullmatch(value.strip()):
            yield _called(name, where)
    elif value is not None and not isinstance(value, bool) and _is_secret(name) and "token" not in name.lower():
        yield _called(name, where)


def in_text(text: str, where: str) -> Iterator[Finding]:
    """Yield what has the shape of a secret in a text."""
    for what, _ in _shapes(text, strict=True):
        yield Finding(where, None, what)


def in_arguments(words: Sequence[str], where: str) -> Iterator[Finding]:
    """Yield what looks like a secret in a command: its words, `--password WORD`, `--token=WORD`, `TOKEN=WORD`."""
    for number, word in enumerate(words):
        found = [Finding(where, None, what) for what, _ in _shapes(word, strict=True)]
        yield from found
        name, sign, value = word.partition("=")
        if not sign and name.startswith("-"):
            following = words[number + 1] if number + 1 < len(words) else ""
            value = "" if following.startswith("-") else following
        named = name.lstrip("-")
        if not found and re.fullmatch(r"[\w.-]{1,80}", named):
            yield from (Finding(where, None, one.what) for one in in_value(value, where, name=named))


def in_file(data: bytes, path: str, where: str, *, names: bool = True) -> Iterator[Finding]:
    """Yield what looks like a secret in a file of code or configuration.

    Args:
        path: Its suffix says what a name with a value looks like in it.
        names: False looks for shapes alone.
    """
    text = data.decode("latin-1")  # every byte a character, so that nothing is left out and places stay
    seen: set[tuple[int, str]] = set()
    found = [*_shapes(text, strict=False)]
    if names and "\0" not in text[:8192] and not _PROSE.fullmatch(path):
        found += _named(text, configuration=_CONFIGURATION.fullmatch(path) is not None)
    for what, at in sorted(found, key=lambda one: one[1]):
        line = text.count("\n", 0, at) + 1
        if (line, what) not in seen:
            seen.add((line, what))
            yield Finding(where, line, what)


def _shapes(text: str, *, strict: bool) -> Iterator[tuple[str, int]]:
    """Yield kind and place of each known shape; `strict`: a password that only an example would have is one too."""
    for what, anchors, pattern in _SHAPES:
        if any(anchor in text for anchor in anchors):
            for match in pattern.finditer(text):
                yield what, match.start()
    if "://" in text:
        for pattern, what in ((_URL, "a URL with credentials"), (_QUERY, "a URL with a token")):
            for match in pattern.finditer(text):
                value = next(filter(None, match.groups()))
                if not _PLACEHOLDER.fullmatch(value) and (strict or not _EXAMPLE.fullmatch(value)):
                    yield what, match.start()


def _named(text: str, *, configuration: bool) -> Iterator[tuple[str, int]]:
    """Yield what and where stands beside a name of secrets. Each name is looked at once, with one line after it."""
    done = 0
    for hint in _HINTS.finditer(text.lower()):
        at = hint.start()
        if at < done:
            continue
        before = text[max(0, at - _LONGEST) : at]
        start = at - (len(before) - len(before.rstrip(_OF_NAMES)))
        done = _NAME.match(text, at).end()  # type: ignore[union-attr]
        if done - start > _LONGEST:
            continue
        match = _ASSIGNED.match(text, start)
        if match is None and configuration and _begins(text, start):
            match = _BARE.match(text, start)
            if match is not None and _NUMBER.fullmatch(match["value"]):
                continue
        if match is None:
            continue
        key, value = match["key"], match["value"].strip()
        formatted = "f" in (match.groupdict().get("prefix") or "").lower()
        if (
            _is_secret(key)
            and (configuration or key.lower() != "token")
            and len(value) >= 4
            and not formatted
            and not _PLACEHOLDER.fullmatch(value)
            and not _EXAMPLE.fullmatch(value)
            and not ("pwd" in key.lower() and value[:1] in "/.~")
        ):
            done = match.end()
            yield f"a value for {key!r}", at


def _begins(text: str, at: int) -> bool:
    """True if nothing but what may stand before a name stands before it in its line."""
    before = text[max(0, at - _LONGEST) : at]
    return _OPENING.fullmatch(before, before.rfind("\n") + 1) is not None


def _called(name: str, where: str) -> Finding:
    return Finding(where, None, f"a value for {name[:80]!r}")


def _is_secret(name: str) -> bool:
    """True if what has this name is a secret wherever it is literal."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words or words[-1] in _ABOUT:
        return False
    if _PASSWORDS & set(words) or _JOINED & set(words):
        return True
    pairs = set(itertools.pairwise(words))
    if any((first, "key") in pairs for first in _KEYS):
        return True
    return words[-1] == "token" and (len(words) == 1 or words[-2] in _TOKENS)
