"""The hub that keeps weights: what it says of a file, and the file itself, going on where an earlier try stopped."""

import errno
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from imagen.core.errors import (
    Conflict,
    DiskFull,
    ImagenError,
    MissingExtra,
    MissingFile,
    NotConfigured,
    RateLimited,
    Rejected,
    SetupError,
    TimedOut,
    Unreachable,
    Unwritable,
)

PUBLIC = "https://huggingface.co"
ASK_S = 10.0  # a question about a file, not the file
READ_BYTES = 2**20
AGAIN = "run the same command again: it goes on where this one stopped"

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the hub says of one file."""

    url: str  # of exactly this version
    size: int | None
    sha256: str  # empty for a small file, which the hub keeps without one
    etag: str


def repository(hub: str) -> tuple[str, str]:
    """`ORG/REPO/path/in/it` -> its two halves."""
    owner, _, rest = hub.partition("/")
    name, _, file = rest.partition("/")
    if not (owner and name and file):
        raise NotConfigured(
            f"`hub: {hub}` names no file of the hub", hint="write ORG/REPO/path/in/the/repository", param="files"
        )
    return f"{owner}/{name}", file


def page(hub: str) -> str:
    """The repository's page, for people."""
    return f"{_endpoint() or PUBLIC}/{repository(hub)[0]}"


def ask(hub: str) -> Known:
    """What the hub says of a file now; an error says what is in the way of fetching it."""
    library = _library()
    repo, file = repository(hub)
    with _translated(hub, library):
        endpoint = _endpoint()
        told = library.get_hf_file_metadata(
            library.hf_hub_url(repo, file, endpoint=endpoint), timeout=ASK_S, endpoint=endpoint
        )
        if told.commit_hash is None or told.etag is None:
            raise _no_hub()
        etag = told.etag
        return Known(
            url=library.hf_hub_url(repo, file, revision=told.commit_hash, endpoint=endpoint),
            size=told.size,
            sha256=etag if _SHA256.fullmatch(etag) else "",
            etag=re.sub(r"\W", "", etag)[:16],
        )


def fetch(hub: str, known: Known, target: Path, progress: Callable[[int], None], *, sha256: str = "") -> None:
    """Bring a file to `target`, whole and checked; `progress` hears how many bytes there are.

    What is there of it lies beside it under a hidden name until then, so that no half file is ever taken for it.
    `sha256` is what the file should have where the hub does not say it.
    """
    library = _library()
    part = part_of(target, known)
    with _writing(target), _translated(hub, library), _Half.open(part, target.name, progress) as half:
        from huggingface_hub.file_download import http_get

        if known.size is not None and half.size > known.size:
            half.clear()
        # huggingface_hub 2 itself keeps nothing of a download that was interrupted, but goes on from where it is told.
        http_get(
            known.url,
            half,  # type: ignore[arg-type]  # write, seek, tell and truncate are all it uses of a file
            resume_size=half.size,
            headers=library.utils.build_hf_headers(),
            expected_size=known.size,
            tqdm_class=_Quiet,  # it only counts, which is done here
        )
        digest = half.sha256
    wanted = known.sha256 or sha256
    if wanted and digest != wanted:
        part.unlink()
        raise SetupError(
            f"{target.name} came damaged: its sha256 is {digest}, and should be {wanted}",
            hint="it was removed; run the same command again, and when that ends the same, look for a proxy in between",
        )
    with _writing(target):
        os.replace(part, target)


def part_of(target: Path, known: Known) -> Path:
    """Where the half of a file lies; another version of it has another name."""
    return target.with_name(f".{target.name}.{known.etag}.part")


def close() -> None:
    """Give back the connections."""
    try:
        from huggingface_hub import close_session
    except ImportError:
        return
    close_session()


class _Half:
    """A file that grows, with the hash and the number of what is in it."""

    def __init__(self, file: BinaryIO, progress: Callable[[int], None]) -> None:
        self._file = file
        self._progress = progress
        self._hash = hashlib.sha256()
        self.size = 0
        while block := file.read(READ_BYTES):
            self._count(block)

    @classmethod
    @contextmanager
    def open(cls, path: Path, name: str, progress: Callable[[int], None]) -> Iterator[Self]:
        path.touch()
        with path.open("r+b") as file:
            _lock(file, name)
            yield cls(file, progress)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, block: bytes) -> int:
        self._count(block)
        return self._file.write(block)

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, place: int) -> int:
        """Only ever to the beginning: a hub that cannot go on from the middle sends everything again."""
        return self._file.seek(place)

    def truncate(self) -> int:
        self._hash, self.size = hashlib.sha256(), 0
        return self._file.truncate(0)

    def clear(self) -> None:
        self.seek(0)
        self.truncate()

    def _count(self, block: bytes) -> None:
        self._hash.update(block)
        self.size += len(block)
        self._progress(self.size)


class _Quiet:
    """The progress bar that http_get wants."""

    def __init__(self, **_: Any) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int) -> None:
        pass


def _lock(file: BinaryIO, name: str) -> None:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise Conflict(
            f"another `imagen models pull` is fetching {name} now",
            hint="wait for its end, then run this one again",
        ) from exc
    except OSError:
        pass  # some network file systems cannot lock; the hash is checked at the end all the same


def _endpoint() -> str | None:
    """Read at each call, because huggingface_hub reads it only once."""
    return (os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None


def _library() -> Any:
    try:
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as exc:
        raise MissingExtra(
            "fetching models needs a package that is not installed: huggingface_hub",
            hint="pip install 'imagen-platform[hub]'",
        ) from exc
    # It tells of every broken line it takes up again; what matters of that is in the errors.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    return huggingface_hub


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"the disk of {target.parent} is full", hint=f"make room there, then {AGAIN}") from exc
        if exc.errno is None:
            raise
        raise Unwritable(
            f"{target.parent} cannot be written to: {exc.strerror}",
            hint="give yourself the right to write there, or name another folder with --to",
        ) from exc


@contextmanager
def _translated(hub: str, library: Any) -> Iterator[None]:
    """What the hub's library raises, as what it means; never with the token."""
    import httpx2

    try:
        yield
    except (
        library.errors.HfHubHTTPError,
        library.errors.HFValidationError,
        library.errors.OfflineModeIsEnabled,
    ) as exc:
        raise _meaning(exc, hub, library.errors) from exc
    except library.errors.FileMetadataError as exc:
        raise _no_hub() from exc
    except httpx2.TimeoutException as exc:
        raise TimedOut(f"the hub took too long over {hub}", hint=AGAIN) from exc
    except httpx2.HTTPError as exc:
        raise Unreachable(
            f"the hub cannot be reached: {_endpoint() or PUBLIC}",
            hint=f"look at the network, or set HF_ENDPOINT to a mirror; then {AGAIN}",
        ) from exc
    except ValueError as exc:  # how http_get says that a file is too large for it
        raise Rejected(
            f"{hub} is larger than what can be fetched this way",
            hint="fetch it with `hf download`, into the folder that `imagen models pull --dry-run` names",
        ) from exc
    except OSError as exc:
        if exc.errno is None:  # how http_get says that the end did not come
            raise Unreachable(f"{hub} broke off before its end", hint=AGAIN) from exc
        raise


def _no_hub() -> Unreachable:
    return Unreachable(
        f"{_endpoint() or PUBLIC} does not answer like a hub",
        hint="correct HF_ENDPOINT, and see whether a proxy or a log-in page of the network is in between",
    )


def _meaning(exc: Exception, hub: str, errors: Any) -> ImagenError:
    repo, file = repository(hub)
    status = getattr(getattr(exc, "response", None), "status_code", None)
    token = "`hf auth login`, or set HF_TOKEN to a token of https://huggingface.co/settings/tokens"
    if isinstance(exc, errors.GatedRepoError):
        return NotConfigured(
            f"{repo} is given only to those who accepted its licence",
            hint=f"accept it at {page(hub)}, then say who you are: {token}",
        )
    if isinstance(exc, errors.OfflineModeIsEnabled):
        return NotConfigured("HF_HUB_OFFLINE forbids asking the hub", hint="take HF_HUB_OFFLINE out of the environment")
    if isinstance(exc, errors.RemoteEntryNotFoundError):
        return MissingFile(
            f"{repo} has no file {file}", hint=f"look at {page(hub)}/tree/main and correct `hub:` of the model's files"
        )
    if isinstance(exc, errors.RepositoryNotFoundError | errors.RevisionNotFoundError | errors.HFValidationError):
        return MissingFile(
            f"the hub has no {repo}, or shows it only to some",
            hint=f"correct `hub:` of the model's files; if it is private, say who you are: {token}",
        )
    if status == 401:
        return NotConfigured("the hub does not know the token it was given", hint=f"make a new one: {token}")
    if status in (403, 451) or isinstance(exc, errors.DisabledRepoError):
        return NotConfigured(
            f"the hub refuses {repo}", hint=f"look at {page(hub)}: it may ask for something, or be closed"
        )
    if status == 429:
        return RateLimited(
            "the hub asks for patience", hint=f"wait some minutes, then {AGAIN}; a token raises the limit"
        )
    if status is not None and status >= 500:
        return Unreachable(f"the hub has trouble of its own (status {status})", hint=f"wait, then {AGAIN}")
    return Rejected(f"the hub refuses {hub} (status {status})", hint=f"look at {page(hub)}")
