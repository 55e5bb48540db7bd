"""Backends by name: found through the entry points of installed packages, loaded only when asked for."""

from collections.abc import Mapping
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
    """All backends that can be loaded here."""
    found: dict[str, Registration] = {}
    for name in names():
        try:
            found[name] = registration(name)
        except (MissingExtra, BadConfig):
            continue  # said when somebody asks for it by name
    return found


def _points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
