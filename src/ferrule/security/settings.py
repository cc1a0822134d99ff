"""Settings of the security room."""

from pydantic import Field

from ferrule.module import SettingsGroup


class SecuritySettings(SettingsGroup):
    """Password hashing (`FERRULE_SECURITY__…`). The defaults are OWASP's for Argon2id."""

    argon2_memory_kib: int = Field(
        default=19_456, ge=8, le=4_194_304, description="Memory of one Argon2 hash, in KiB."
    )
    argon2_passes: int = Field(default=2, ge=1, le=100, description="Passes of one Argon2 hash.")
    hash_threads: int = Field(default=2, ge=1, le=64, description="Hashes computed at once.")
    hash_queue: int = Field(
        default=64, ge=1, le=10_000, description="Hashes that may wait; past it the answer is 503."
    )
