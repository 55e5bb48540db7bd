"""Removing what nobody needs: files that no row knows, bytes of deleted pictures; old pictures and jobs when asked.

Deleting says so in the row first and removes the bytes then, so a crash in between leaves work for here.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from imagen.core.ids import ALPHABET
from imagen.store import album, past
from imagen.store.album import Known
from imagen.store.db import Database
from imagen.store.images import HALF_WRITTEN, PROBE, ImageStore, Listed, files_of

YOUNG_S = 3600.0  # a picture is written before it is recorded: for so long nobody calls it a stray
KEY_S = 24 * 3600.0  # how long an idempotency key is kept at least
NAMED = 1000  # names that a report holds of one kind; it counts them all

# Only names of this form are ours: whatever else somebody keeps in the folder is not touched.
_ID = f"[{ALPHABET}]{{26}}"
_OURS = re.compile(rf"(?:\d{{4}}/\d{{2}}/({_ID})\.(?:thumbnail\.|cell\.)?[a-z]+|{PROBE}({_ID}))(?:#\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Things of one kind: how many, how many bytes together, and the first names."""

    count: int = 0
    size: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GcReport:
    """What would go, or with `dry_run` off what went; and what was only seen."""

    dry_run: bool
    strays: Found  # files that no row knows
    deleted: Found  # files of pictures that were deleted already
    old: Found  # pictures whose job ended long ago, by their ids
    keys: int  # idempotency keys of jobs that were deleted
    stale: int  # rows about pictures forming that nobody watches any more
    missing: Found  # pictures whose file is not there, by their ids: reported, not changed
    foreign: Found  # files with a name that is not ours, or from before this database: reported, not touched
    jobs: int = 0  # that ended long ago, with all that is recorded of them

    @property
    def size(self) -> int:
        """How many bytes go in all."""
        return self.strays.size + self.deleted.size + self.old.size

    @property
    def empty(self) -> bool:
        """Whether there is nothing to remove."""
        return not (self.strays.count or self.deleted.count or self.old.count or self.keys or self.stale or self.jobs)

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "size": self.size}


async def gc(
    db: Database,
    images: ImageStore,
    *,
    dry_run: bool = True,
    older_than_s: float | None = None,
    forget_s: float | None = None,
    now: datetime | None = None,
) -> GcReport:
    """Look for what nobody needs and, without `dry_run`, remove it.

    `older_than_s` also takes the pictures of jobs that ended longer ago than that, `forget_s` the jobs as well.
    """
    now = now or datetime.now(UTC)
    older, forgotten = (None if age_s is None else now - timedelta(seconds=age_s) for age_s in (older_than_s, forget_s))
    # Keys first, so that a dry run counts the same ones: they do not depend on what goes below.
    keys = await _spent_keys(db, now, dry_run)
    stale = await (db.read(past.stale, now) if dry_run else db.write(past.drop_stale, now))
    began = await db.read(past.began)
    broom = _Broom(db, images, dry_run=dry_run, older=older, forgotten=forgotten, now=now, began=began)
    async with aclosing(images.listed()) as pages:
        async for page in pages:
            await broom.sweep(page)
    await broom.look_for_the_missing()
    # Last, when their pictures are gone: of a file that no row knows nobody could tell any more whose it was.
    old_jobs = 0 if forgotten is None else await _forget(db, forgotten, dry_run)
    return GcReport(
        dry_run=dry_run,
        keys=keys,
        stale=stale,
        jobs=old_jobs,
        **{kind: tally.found() for kind, tally in broom.tallies.items()},
    )


class _Tally:
    def __init__(self) -> None:
        self.count = self.size = 0
        self.names: list[str] = []

    def add(self, name: str, size: int) -> None:
        self.count += 1
        self.size += size
        if len(self.names) < NAMED:
            self.names.append(name)

    def found(self) -> Found:
        return Found(count=self.count, size=self.size, names=tuple(sorted(self.names)))


class _Broom:
    """Goes over the image store a page at a time; holds an id for each picture, never the whole listing."""

    def __init__(
        self,
        db: Database,
        images: ImageStore,
        *,
        dry_run: bool,
        older: datetime | None,
        forgotten: datetime | None,
        now: datetime,
        began: datetime | None,
    ) -> None:
        self.tallies = {kind: _Tally() for kind in ("strays", "deleted", "old", "missing", "foreign")}
        self._db = db
        self._images = images
        self._dry_run = dry_run
        self._older = older
        self._forgotten = forgotten
        self._young = now - timedelta(seconds=YOUNG_S)
        self._began = began
        self._seen: set[str] = set()
        self._old: set[str] = set()

    async def sweep(self, page: Sequence[Listed]) -> None:
        """Look at some files, and remove those that nobody needs."""
        # The files were listed before the rows are looked up, so a picture recorded meanwhile is known.
        known = await self._db.read(album.known, {name for file in page if (name := _id_of(file.path))})
        going: list[str] = []
        there: dict[str, Known] = {}
        for file in page:
            row = known.get(_id_of(file.path) or "")
            half = HALF_WRITTEN.search(file.path) is not None
            if row is not None and row.id in self._old:
                continue  # counted and removed with its picture
            if row is None or half:
                kind = self._stray(file)
                if kind == "strays":
                    going.append(file.path)
            elif file.path not in files_of(row.path):
                kind = "foreign"
            elif row.state == album.DELETED:
                kind = "deleted"
                going.append(file.path)
            else:
                kind = None
                if file.path == row.path:
                    self._seen.add(row.id)
                there[row.id] = row
            if kind:
                self.tallies[kind].add(file.path, file.size)
        if going and not self._dry_run:
            await self._images.delete_all(going)
        await self._remove_old(await self._old_of(there.values()))

    async def look_for_the_missing(self) -> None:
        """Pictures that a row promises and that are not there."""
        last = ""
        while page := await self._db.read(album.stored_after, last):
            last = page[-1].id
            unseen = [row for row in page if row.id not in self._seen]
            sizes = await self._images.sizes([row.path for row in unseen])  # it may have come after the listing
            for row, size in zip(unseen, sizes, strict=True):
                if size is None:
                    self.tallies["missing"].add(row.id, 0)

    async def _old_of(self, rows: Iterable[Known]) -> list[Known]:
        """Those of an age, and those whose jobs are forgotten after this."""
        jobs: set[str] = set()
        if self._forgotten and rows:
            jobs = await self._db.read(past.among, {row.job_id for row in rows}, self._forgotten)
        older = self._older
        return [row for row in rows if row.job_id in jobs or (older and row.finished_at and row.finished_at < older)]

    async def _remove_old(self, rows: Sequence[Known]) -> None:
        if not rows:
            return
        files = [file for row in rows for file in files_of(row.path)]
        sizes = dict(zip(files, await self._images.sizes(files), strict=True))
        for row in rows:
            self._old.add(row.id)
            self.tallies["old"].add(row.id, sum(sizes[file] or 0 for file in files_of(row.path)))
        if not self._dry_run:
            await self._db.write(album.forget, [row.id for row in rows])
            await self._images.delete_all(files)

    def _stray(self, file: Listed) -> str | None:
        """What a file is that no row knows; None while it may still be recorded."""
        if _id_of(file.path) is None:
            return "foreign"
        if file.modified > self._young:
            return None
        # A new database in front of an old folder must not take all of it for rubbish.
        if self._began is None or file.modified < self._began:
            return "foreign"
        return "strays"


async def _forget(db: Database, before: datetime, dry_run: bool) -> int:
    if dry_run:
        return await db.read(past.count, before)
    count = 0
    while some := await db.write(past.drop, before):
        count += some
    await db.write(past.drop_devices)
    return count


async def _spent_keys(db: Database, now: datetime, dry_run: bool) -> int:
    count = 0
    last: tuple[str, ...] = ()
    while page := await db.read(past.keys_before, now - timedelta(seconds=KEY_S), last):
        last = (page[-1]["owner"], page[-1]["route"], page[-1]["key"])
        targets = {name for row in page for name in row["target"].split(",")}
        needed = await db.read(past.needed, targets)
        spent = [row for row in page if needed.isdisjoint(row["target"].split(","))]
        count += len(spent)
        if spent and not dry_run:
            await db.write(past.drop_keys, spent)
    return count


def _id_of(path: str) -> str | None:
    match = _OURS.fullmatch(path)
    return (match[1] or match[2]) if match else None
