"""Secrets, told by their value or by the name they go under; the one place that knows them, and takes them out.

What is written or shown goes through `redact` (a text) or `redacted` (a table); what is used never does. The shapes are
those the issuers publish. A table of our own, since detect-secrets, the kept library for this, has had no release since
May 2024, knows none of hf_, github_pat_, sk-proj-, AIza and bearer headers, and loads requests and yaml on import.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Any

from attrs import frozen

REDACTED = "REDACTED"
"""Stands in the place of a secret in everything that is written."""

_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|(^|_)(API_?)?KEY(_|$|S$)|APIKEY", re.I)
_KEY = re.compile(
    r"(^|[_.-])(password|passwd|passphrase|secret|client_secret|api_?key|(access|secret|private|account)_?key"
    r"|(access|auth|bearer|hub|hf|api|private|refresh|session)_?token|credentials?|authorization)$|^(x-)?token$",
    re.I,
)
_SHORTEST = 8


@frozen
class _Rule:
    """`hints`: a secret of this kind holds one of these texts or patterns, which are found much faster than it.

    `in_rows`: whether it is sure enough a sign to be looked for in training rows, which are full of code.
    """

    kind: str
    hints: tuple[str | re.Pattern[str], ...]
    pattern: re.Pattern[str]
    put: str = REDACTED
    in_rows: bool = True

    def may_be_in(self, text: str) -> bool:
        """Whether it is worth looking for."""
        return any(hint in text if isinstance(hint, str) else hint.search(text) for hint in self.hints)


_TOKENS: dict[str, str] = {  # how it begins, and what follows
    "hf_": "[A-Za-z0-9]{20,}", "api_org_": "[A-Za-z0-9]{20,}",
    **dict.fromkeys(("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), "[A-Za-z0-9]{20,}"), "github_pat_": r"\w{22,}",
    **dict.fromkeys(
        ("glpat-", "gldt-", "glrt-", "glcbt-", "glptt-", "glft-", "glsoat-", "glimt-", "glagent-", "gloas-"),
        r"[\w-]{20,}",
    ),
    "sk-": r"(?:(?:proj|svcacct|admin|ant|or|lf|None)-[\w-]{20,}|[A-Za-z0-9]{20,})", "pk-lf-": r"[\w-]{20,}",
    **dict.fromkeys(("sk_live_", "sk_test_", "rk_live_", "rk_test_"), "[A-Za-z0-9]{16,}"),
    "whsec_": "[A-Za-z0-9+/=]{24,}",
    **dict.fromkeys(("AKIA", "ASIA", "ABIA", "ACCA"), "[A-Z0-9]{16}(?![A-Za-z0-9])"),
    "xox": "[abcdeoprs]-[A-Za-z0-9-]{17,}", "xapp-": r"\d-[A-Za-z0-9-]{17,}", "AIza": r"[\w-]{35}",
    "ya29.": r"[\w-]{20,}", "GOCSPX-": r"[\w-]{20,}", "eyJ": r"[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]*",
    "npm_": "[A-Za-z0-9]{36}", "pypi-": r"[\w-]{50,}", "dckr_pat_": r"[\w-]{20,}", "SG.": r"[\w-]{16,}\.[\w-]{16,}",
    "nvapi-": r"[\w-]{20,}", "gsk_": "[A-Za-z0-9]{20,}", "r8_": "[A-Za-z0-9]{30,}", "tgp_v1_": r"[\w-]{20,}",
    "pplx-": "[A-Za-z0-9]{30,}", "xai-": "[A-Za-z0-9]{40,}", "wandb_v1_": r"[\w-]{20,}", "lsv2_": r"[\w]{30,}",
    "ATATT3": r"[\w=-]{20,}", "ATBB": "[A-Za-z0-9]{28,}", "dop_v1_": "[a-f0-9]{64}", "shpat_": "[a-fA-F0-9]{32}",
    "hvs.": r"[\w-]{24,}", "dapi": "[a-f0-9]{32}", "lin_api_": "[A-Za-z0-9]{32,}", "KGAT_": "[a-f0-9]{32}",
    "AGE-SECRET-KEY-1": "[0-9A-Z]{58}", "cfut_": r"[\w-]{30,}", "figd_": r"[\w-]{30,}",
}  # fmt: skip
_HINTS = (  # one of these is in every token: a literal, or a pattern that begins with one and is rare in code
    *("_pat_", "_v1_", "lsv2_", "cfut_", "figd_", "eyJ", "dapi", "SG.", "ya29.", "hvs."),
    re.compile("A(?:KIA|SIA|BIA|CCA|Iza|TATT3|TBB)"),
    re.compile("_[A-Za-z0-9]{16}"),
    re.compile(r"-(?:[A-Za-z0-9]{14}|(?=[\w-]{0,30}\d)[A-Za-z0-9][\w-]{16})"),
)
_VALUE = r"[A-Za-z0-9._~+/=-]"
_RULES = (
    _Rule(
        "private key",
        ("PRIVATE KEY",),
        re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----[\s\S]*?(?:-----END [A-Z0-9 ]*-----|\Z)"),
    ),
    _Rule(
        "user and password in an address",
        ("://",),
        # the second: a password with a slash in it, behind which only an @ tells that it was one
        re.compile(
            r"://(?:[^\s/?#@\"'<>\\:]*:[^\s/?#\"'<>\\]+(?=@)|[^\s/?#@:\[\"'<>\\{]*:(?!\d+[/?#])[^\s@\"'<>\\]+(?=@))"
        ),
        f"://{REDACTED}",
    ),
    _Rule(
        "user in an address",
        ("http",),
        re.compile(r"(http|ttps)://(?!(?:git|REDACTED)@)[^\s/?#@:\"'<>{}\\]+(?=@)"),
        rf"\1://{REDACTED}",
    ),
    _Rule(
        "key in an address",
        (re.compile(r"\?[^\s?]+="),),
        re.compile(
            r"(?<=[?&])((?:[a-z]+_)?token|api_?key|apikey|secret|client_secret|password|passwd|sig|signature"
            r"|x-(?:amz|goog)-(?:signature|credential|security-token)|awsaccesskeyid)=[^&\s\"'<>{}]+",
            re.I,
        ),
        rf"\1={REDACTED}",
    ),
    _Rule(
        "header that authorises",
        ("uthorization", "UTHORIZATION", re.compile("-[tTkK](?:oken|OKEN|ey|EY)")),
        re.compile(
            r"\b((?:proxy-)?authorization|private-token|job-token|x-(?:auth|access|vault|amz-security)-token|x-api-key"
            r"|api-key)(\\?[\"']?\s*[:=]\s*\\?[\"']?)(?:(?:bearer|basic|token|digest)\s+)?+(?!REDACTED)"
            r"[^\s\"'\\,;${}<>%()\[\]]{6,}",
            re.I,
        ),
        rf"\1\2{REDACTED}",
    ),
    _Rule(
        "bearer",
        ("earer ", "EARER "),
        re.compile(rf"\b(bearer)\s+(?:(?={_VALUE}*\d){_VALUE}{{8,}}|{_VALUE}{{20,}})", re.I),
        rf"\1 {REDACTED}",
    ),
    _Rule(
        "token",
        _HINTS,
        re.compile(
            r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))(?:"
            + "|".join(re.escape(head) + rest for head, rest in _TOKENS.items())
            + ")"
        ),
    ),
    _Rule(
        "address of a hook",
        ("hooks.slack.com/services/", "/api/webhooks/"),
        re.compile(r"(?<=hooks\.slack\.com/services/)[\w/-]{10,}|(?<=/api/webhooks/)\d+/[\w-]{10,}"),
    ),
    _Rule("bot token", (":AA",), re.compile(r"(?:(?<![0-9A-Za-z])|(?<=\\[nrt]))\d{8,10}:AA[\w-]{32,}")),
    _Rule(
        "value given to the name of a secret",
        ("=",),
        re.compile(
            r"((?:\b[A-Z0-9_]*(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|SECRET_KEY|ACCOUNT_?KEY|CREDENTIALS?)"
            r"|(?i:(?:^|[\s.,;:_\"'-])(?:password|passwd|api_?key|access_?key|secret(?:_?key)?|account_?key"
            r"|(?:access|auth|hub)_?token)))=[\"']?)(?!REDACTED)[^\s\"'&,;${}<>()\[\]]{6,}"
        ),
        rf"\1{REDACTED}",
        in_rows=False,
    ),
)


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name holds a secret."""
    return _NAME.search(name) is not None


def is_secret_key(key: str) -> bool:
    """Whether a recipe's key of this name holds a secret: `password`, `api_key`; not `pad_token` or `max_tokens`."""
    return _KEY.search(key.rpartition(".")[2]) is not None


def redact(text: str, own: Collection[str] | None = None, *, row: bool = False) -> str:
    """`text` with every secret in it replaced: those told by their shape, and the values of the environment's own.

    Args:
        text: what is to be written or shown.
        own: `own_secrets()`, where it was asked for once for many texts.
        row: whether it is a training row's, which is full of code: only sure signs count, those of `kinds`.
    """
    for value in own_secrets() if own is None else own:
        text = text.replace(value, REDACTED)
    for rule in _RULES:
        if (rule.in_rows or not row) and rule.may_be_in(text):
            text = rule.pattern.sub(rule.put, text)
    return text


def redacted(value: Any, key: str = "") -> Any:
    """A table, list or text without secrets; what stands under a key such as `password` is one whatever it looks like.

    Values that are neither, such as numbers and paths' objects, stay as they are.
    """
    if isinstance(value, str):
        return REDACTED if value and is_secret_key(key) else redact(value)
    if isinstance(value, dict):
        return {
            redact(name) if isinstance(name, str) else name: redacted(item, str(name)) for name, item in value.items()
        }
    return [redacted(item, key) for item in value] if isinstance(value, list | tuple) else value


def kinds(text: str, own: Collection[str] | None = None) -> set[str]:
    """What kinds of secrets a training row's text holds, as words for the user.

    Args:
        text: the row, or a file.
        own: `own_secrets()`, where it was asked for once for many texts.
    """
    rules = (rule for rule in _RULES if rule.in_rows and rule.may_be_in(text))
    found = {rule.kind for rule in rules if rule.pattern.search(text)}
    return found | {"secret of the environment" for value in (own_secrets() if own is None else own) if value in text}


def own_secrets() -> list[str]:
    """Values of the environment's variables that are secrets by name, but for words, numbers and paths."""
    found = []
    for name, value in os.environ.items():
        if len(value) < _SHORTEST or not is_secret_name(name) or value.startswith(("/", "~", "./")):
            continue
        word = value.isalpha() and (value.islower() or value.isupper() or value.istitle()) and len(value) < 20
        if not (word or value.isdigit()):
            found.append(value)
    return found
