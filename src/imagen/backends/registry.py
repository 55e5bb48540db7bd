"""Backends by name: found through the entry points of installed packages, loaded only when asked for."""

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points

from imagen.backends.base import Registration
from imagen.core.errors import BadConfig, MissingExtra, NotConfigured

GROUP = "imagen.backends"


def names() -> tuple[str, ...]:
    """Every backend that is installed, loaded or not."""
    return tuple(sorted(_points()))


def registration(name: str) -> Registration:
    """The backend of this name; an error that says what to install or to write otherwise."""
    points = _points()
    if name not in points:
        raise NotConfigured(
            f"no backend named {name!r} is installed",
            hint=f"installed are: {', '.join(sorted(points))}; others come as Python packages",
            param="backend",
        )
    try:
        found = points[name].load()
    except ImportError as exc:
        raise MissingExtra(
            f"the backend {name!r} needs a package that is not installed: {exc}",
            hint=f"pip install 'imagen-platform[{name}]'",
        ) from exc
    if not isinstance(found, Registration):
        raise BadConfig(
            f"the entry point of the backend {name!r} is no Registration",
            hint="its package is at fault: see docs/howto/write-a-backend.md",
        )
    return found


def registrations() -> Mapping[str, Registration]:
    """All backends that are installed; each is loaded when it is looked up, and says then what it lacks."""
    return _Installed()


class _Installed(Mapping[str, Registration]):
    def __init__(self) -> None:
        self._names = names()

    def __getitem__(self, name: str) -> Registration:
        if name not in self._names:
            raise KeyError(name)
        return registration(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
