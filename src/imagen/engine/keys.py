"""The keys of callers, as the owner of this place makes and takes them away. Part of the app."""

from datetime import UTC, datetime

from imagen.store import keys
from imagen.store.db import Database
from imagen.store.keys import Key


class Keys:
    """Add, list, remove, recognise."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, name: str, *, admin: bool = False) -> str:
        """A new key for a caller; the secret is given once and not kept."""
        secret = keys.new_secret()
        await self._db.write(keys.add, name, keys.hashed(secret), admin, datetime.now(UTC))
        return secret

    async def all(self) -> list[Key]:
        """Who may call."""
        return await self._db.read(keys.listed)

    async def remove(self, name: str) -> None:
        """Whoever holds it is a stranger from now on."""
        await self._db.write(keys.remove, name)

    async def of(self, secret: str) -> Key | None:
        """The key with this secret."""
        return await self._db.read(keys.by_hash, keys.hashed(secret))
