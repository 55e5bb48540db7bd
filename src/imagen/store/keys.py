"""The keys of callers: a name, and the hash of a secret that is not kept."""

import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from sqlalchemy import Connection, delete, insert, select

from imagen.core.errors import Conflict, RequestError
from imagen.core.job import LOCAL
from imagen.store.tables import keys

PREFIX = "imagen_"  # so that people and scanners know what they found
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Who may call. The secret itself was shown once, when it was made."""

    name: str
    admin: bool
    created_at: datetime


def new_secret() -> str:
    """Something nobody guesses: 256 bits of chance."""
    return PREFIX + secrets.token_urlsafe(32)


def hashed(secret: str) -> str:
    """What is stored. One fast hash is enough: it protects from reading, and 256 bits cannot be tried one by one."""
    return sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def add(connection: Connection, name: str, hash_: str, admin: bool, now: datetime) -> None:
    """Remember a key. Its name is the owner of what is made with it."""
    if not _NAME.fullmatch(name) or name == LOCAL:
        raise RequestError(
            f"a key cannot be named {name[:80]!r}",
            hint=f"letters, digits and . _ @ - are fine, up to 64 of them; {LOCAL!r} is the owner of this machine",
            param="name",
        )
    if connection.execute(select(keys.c.name).where(keys.c.name == name)).first():
        raise Conflict(
            f"there is a key named {name!r} already",
            hint="choose another name, or take that one away first",
            param="name",
        )
    connection.execute(insert(keys).values(name=name, hash=hash_, admin=admin, created_at=now))


def listed(connection: Connection) -> list[Key]:
    """All of them, by name."""
    rows = connection.execute(select(keys.c.name, keys.c.admin, keys.c.created_at).order_by(keys.c.name)).all()
    return [Key(name=row.name, admin=row.admin, created_at=row.created_at) for row in rows]


def remove(connection: Connection, name: str) -> None:
    """Forget a key; whoever holds it is a stranger from now on. The jobs made with it stay."""
    if not connection.execute(delete(keys).where(keys.c.name == name)).rowcount:
        raise RequestError(f"there is no key named {name!r}", hint="see `imagen keys list`", param="name")


def by_hash(connection: Connection, hash_: str) -> Key | None:
    """The key with this hash, if there is one."""
    row = connection.execute(
        select(keys.c.name, keys.c.admin, keys.c.created_at).where(keys.c.hash == hash_)
    ).one_or_none()
    return None if row is None else Key(name=row.name, admin=row.admin, created_at=row.created_at)
