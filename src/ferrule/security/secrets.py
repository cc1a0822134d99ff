"""The secret keys, what is signed with them, and the secret that is made at the first start."""

import hashlib
import hmac
import os
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import SecretStr

from ferrule.errors import ConfigurationError

MIN_KEY = 32
"""Characters of a secret key, at least (RFC 7518, section 3.2: as long as the hash of HS256)."""
MAX_SIGNED = 4096
_MAC = 16
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


class Secrets:
    """The secret keys of the application: the first signs, all verify.

    No key is used itself: each purpose has a key derived from it by HMAC-SHA256, so that what is
    signed for one purpose is worth nothing for another.
    """

    def __init__(self, keys: Sequence[SecretStr | str]) -> None:
        texts = [key.get_secret_value() if isinstance(key, SecretStr) else key for key in keys]
        if not texts or not all(texts):
            raise ConfigurationError("FERRULE_SECRET_KEY is empty: set at least one key.")
        self._keys = [text.encode() for text in texts]
        self._derived: dict[str, list[bytes]] = {}

    def __repr__(self) -> str:
        return f"Secrets({len(self._keys)} keys)"

    def signing_key(self, purpose: str) -> bytes:
        """The 32 bytes that sign for a purpose."""
        return self.verifying_keys(purpose)[0]

    def verifying_keys(self, purpose: str) -> list[bytes]:
        """The keys that verify for a purpose, the one that signs first.

        A purpose is named by code, never by a request: its keys are kept.
        """
        if purpose not in self._derived:
            label = b"ferrule\x00" + purpose.encode()
            self._derived[purpose] = [_mac(key, label) for key in self._keys]
        return self._derived[purpose]

    def sign(self, purpose: str, data: bytes) -> str:
        """Readable but unforgeable text that holds `data`: base64url without padding."""
        mac = _mac(self.signing_key(purpose), data)[:_MAC]
        return urlsafe_b64encode(mac + data).rstrip(b"=").decode()

    def unsign(self, purpose: str, text: str) -> bytes | None:
        """The data that was signed for this purpose; None for anything else."""
        if len(text) > MAX_SIGNED or not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
            return None
        signed = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        mac, data = signed[:_MAC], signed[_MAC:]
        # No short circuit: how long it takes does not tell which key it was.
        matches = [
            hmac.compare_digest(_mac(key, data)[:_MAC], mac) for key in self.verifying_keys(purpose)
        ]
        return data if any(matches) else None


def load_or_create_secret(data_dir: Path) -> str:
    """The secret of this data folder, made when it is first asked for; readable by us alone.

    Of several processes that start at once, one makes it and all get the same.
    """
    file = data_dir / "secret"
    try:
        if not file.exists():
            data_dir.mkdir(parents=True, exist_ok=True)
            _create(file)
        if os.name == "posix" and file.stat().st_mode & 0o077:
            file.chmod(0o600)
        secret = file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"The secret in the data folder can neither be read nor made "
            f"({type(error).__name__}): make FERRULE_DATA_DIR writable, or set FERRULE_SECRET_KEY."
        ) from error
    if len(secret) < MIN_KEY:
        raise ConfigurationError(
            "The file `secret` in the data folder is damaged: restore it, or delete it to get a "
            "new one (everybody has to sign in again)."
        )
    return secret


def _create(file: Path) -> None:
    temporary = file.with_name(f".secret-{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_urlsafe(48) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        # A link appears whole or not at all, and fails where another process was faster.
        with suppress(FileExistsError):
            os.link(temporary, file)
    finally:
        temporary.unlink()


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, hashlib.sha256)
