"""What the application refuses to start with, and what to do instead."""

import re
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ferrule.errors import ConfigurationError
from ferrule.security.secrets import MIN_KEY

if TYPE_CHECKING:
    from ferrule.settings import Settings

KNOWN_WORDS = (
    "changeme",
    "secret",
    "password",
    "example",
    "default",
    "insecure",
    "replace",
    "ferrule",
)
"""Words of defaults and examples; in a random key none turns up within the age of the universe."""
MIN_VARIETY = 8
"""Different characters that a random key of 32 characters has at least, even a hexadecimal one."""
REMEDY = "make one with `openssl rand -base64 48`"


def refuse_unsafe(settings: "Settings") -> None:
    """Raise `ConfigurationError` that names every unsafe setting with its remedy."""
    checks = (_keys, _cors, _public_url, _hosts, _mail)
    problems = [problem for check in checks for problem in check(settings)]
    if problems:
        raise ConfigurationError("This is not safe to start:\n  " + "\n  ".join(problems))


def key_problem(key: str) -> str | None:
    """Why a secret key could be guessed; None if that is not to be seen."""
    plain = re.sub(r"[^a-z0-9]", "", key.lower())
    if len(key) < MIN_KEY:
        return f"a key is shorter than {MIN_KEY} characters"
    if len(set(key)) < MIN_VARIETY or key in (key + key)[1:-1] or _counts_up(key):
        return "a key repeats itself"
    if any(word in plain for word in KNOWN_WORDS):
        return "a key is a default or an example"
    return None


def _counts_up(key: str) -> bool:
    steps = [ord(after) - ord(before) for before, after in pairwise(key)]
    return sum(step == 1 for step in steps) > len(steps) // 2


def _keys(settings: "Settings") -> list[str]:
    name = "FERRULE_SECRET_KEY"
    keys = [key.get_secret_value() for key in settings.secret_key]
    if settings.production:
        problems = [problem for key in keys if (problem := key_problem(key))]
        if not keys and not settings.embedded:
            problems.append("it is not set, and each machine would sign with a secret of its own")
    else:
        problems = [key_problem(key) or "" for key in keys if len(key) < MIN_KEY]
    if len(set(keys)) < len(keys):
        problems.append("the same key stands in the list twice")
    return [f"{name}: {problem}; {REMEDY}." for problem in dict.fromkeys(problems)]


def _cors(settings: "Settings") -> list[str]:
    if "*" in (settings.cors_origins or ()) and settings.http.cors_credentials:
        return [
            "FERRULE_CORS_ORIGINS: with * every site could act as the person who visits it; name "
            "the origins, or set FERRULE_HTTP__CORS_CREDENTIALS=false."
        ]
    return []


def _public_url(settings: "Settings") -> list[str]:
    if settings.public_url is None:
        return []
    name = "FERRULE_PUBLIC_URL"
    try:
        url = urlsplit(settings.public_url)
        host, _ = url.hostname, url.port
    except ValueError:
        host = None
        url = urlsplit("")
    if not host or url.scheme not in ("http", "https") or url.username or url.query or url.fragment:
        return [f"{name}: it is no address of a site; write it as https://app.company.org."]
    local = host in ("localhost", "127.0.0.1", "::1") or host.endswith(".localhost")
    if settings.production and url.scheme != "https" and not local:
        return [f"{name}: passwords would travel unencrypted; use https://."]
    return []


def _hosts(settings: "Settings") -> list[str]:
    if not settings.production:
        return []
    name = "FERRULE_ALLOWED_HOSTS"
    if "*" in settings.allowed_hosts:
        return [f"{name}: * believes any Host header; name the hosts."]
    if not settings.allowed_hosts and settings.public_url is None:
        return [f"{name}: any Host header would be believed; name the hosts, or set "
                "FERRULE_PUBLIC_URL."]  # fmt: skip
    return []


def _mail(settings: "Settings") -> list[str]:
    mail = settings.mail
    if mail.host is None:
        return []
    from ferrule.mail.message import sender_address

    problems: list[str] = []
    try:
        sender_address(mail.sender or "")
    except ValueError:
        problems.append(
            "FERRULE_MAIL__SENDER: name who the mails come from, as in Shop <mail@shop.org>."
        )
    if (mail.username is None) != (mail.password is None):
        problems.append("FERRULE_MAIL__USERNAME and FERRULE_MAIL__PASSWORD: set both, or none.")
    local = mail.host in ("localhost", "127.0.0.1", "::1")
    if mail.password is not None and mail.encryption == "none" and not local:
        problems.append(
            "FERRULE_MAIL__ENCRYPTION: the password would travel unencrypted; use starttls or tls."
        )
    return problems
