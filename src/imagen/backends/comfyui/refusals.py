"""Why a workflow cannot become a model, each with what would make it possible."""

import re
from collections.abc import Iterable, Iterator, Mapping

from imagen.backends.comfyui.nodes import NodeType
from imagen.backends.comfyui.sums import number
from imagen.backends.comfyui.trail import Spot, Trail
from imagen.backends.comfyui.widgets import offered
from imagen.backends.comfyui.workflow import is_link, samples
from imagen.core.errors import ImagenError, RequestError, Unsupported

CORE = "comfy-core"  # what files call ComfyUI's own nodes
_FRAMES = re.compile(r"^(length|frames|num_frames|video_frames|frame_count)$")
_VIDEO = re.compile(r"video|webm|animated|gif|apng|mp4", re.IGNORECASE)


def saves(kind: NodeType) -> int | None:
    """How well a node gives a picture away: 0 it saves one, 1 it shows one, None for all others."""
    if not kind.output_node or _VIDEO.search(f"{kind.name} {kind.category}"):
        return None
    images = [item for item in kind.inputs.values() if "IMAGE" in item.kind.split(",")]
    others = [item for item in kind.inputs.values() if item not in images]
    if len(images) != 1 or any(not item.widget and item.required for item in others):
        return None
    if any("prefix" in item.name or "filename" in item.name for item in others):
        return 0
    return None if any(item.required for item in others) else 1


def no_picture(trail: Trail, packages: Mapping[str, str]) -> ImagenError:
    """Nothing in it gives a picture away."""
    ends = [node for node in trail.nodes if any(_picture(trail, at, slot) for _, at, slot in trail.links(node))]
    used = {source for node in trail.nodes for _, source, _ in trail.links(node)}
    if unknown := unknown_classes(trail, [node for node in ends if node not in used]):
        return missing(unknown, packages)
    kept = sorted({trail.nodes[node]["class_type"] for node in trail.nodes if trail.kind(node).output_node})
    made = f"it ends in {', '.join(kept)}" if kept else "nothing in it is kept"
    return Unsupported(
        f"this workflow gives no picture: {made}",
        hint="give a workflow that ends in Save Image; in ComfyUI, check that it is not muted or bypassed",
    )


def refusal(trail: Trail, output: str, packages: Mapping[str, str]) -> ImagenError | None:
    """Why the picture of this output cannot be drawn from a prompt alone; None when it can."""
    nodes = trail.upstream(output)
    if paid := sorted({trail.nodes[node]["class_type"] for node in nodes if trail.kind(node).api}):
        return Unsupported(
            f"{', '.join(paid)} asks a paid service, with the account of whoever sits at ComfyUI's page",
            hint="give a workflow that draws on your own machine",
        )
    if unknown := unknown_classes(trail, nodes):
        return missing(unknown, packages)
    if loaded := list(_loaded(trail, nodes)):
        what = ", ".join(f"{trail.nodes[node]['class_type']} ({node})" for node in loaded)
        return Unsupported(
            f"this workflow starts from a file that somebody uploads: {what}",
            hint="only pictures from text can be asked for; give a workflow without it, or bypass it in ComfyUI",
        )
    for node in nodes:
        for name in trail.inputs(node):
            many = number(trail, Spot(node, name)) if _FRAMES.match(name) else None
            if many is not None and many > 1 and "LATENT" in trail.kind(node).outputs:
                return Unsupported(
                    f"this workflow draws {many:g} frames, not one picture ({node}.{name})",
                    hint="set it to 1 in ComfyUI, or give a workflow for single pictures",
                )
    if not any(samples(trail.kind(node)) for node in nodes):
        return Unsupported(
            "this workflow draws nothing: no sampler stands behind its picture",
            hint="give one that makes a picture out of a prompt",
        )
    return next(_loose(trail, nodes), None) or next(_strange(trail, nodes), None)


def unknown_classes(trail: Trail, nodes: Iterable[str]) -> list[str]:
    """The classes that the server does not have."""
    return sorted({name for node in nodes if (name := trail.nodes[node]["class_type"]) not in trail.types})


def missing(classes: Iterable[str], packages: Mapping[str, str]) -> ImagenError:
    """Nodes that this server lacks, and what brings them."""
    told = [f"{name} ({packages[name]})" if packages.get(name, CORE) != CORE else name for name in classes]
    wanted = sorted({packages.get(name, "") for name in classes})
    custom = [item for item in wanted if item not in ("", CORE)]
    remedies = []
    if custom:
        remedies.append(f"install {', '.join(custom)} with ComfyUI's manager and restart it")
    if CORE in wanted:
        remedies.append("update ComfyUI: some are its own, of a newer version")
    if not remedies:
        remedies.append("install the custom nodes that bring them and restart ComfyUI")
    return Unsupported(
        f"this ComfyUI does not have the nodes {', '.join(told)}",
        hint=f"{'; '.join(remedies)}; then run the same command again",
    )


def _picture(trail: Trail, node: str, slot: int) -> bool:
    """True for an output that gives a picture, or may give one: nobody knows what an unknown node gives."""
    return trail.nodes[node]["class_type"] not in trail.types or trail.output(node, slot)[0] == "IMAGE"


def _loaded(trail: Trail, nodes: Iterable[str]) -> Iterator[str]:
    return (node for node in nodes if any(item.upload for item in trail.inputs(node).values()))


def _loose(trail: Trail, nodes: Iterable[str]) -> Iterator[RequestError]:
    """Inputs that need a link and have none."""
    for node in nodes:
        for name, item in trail.inputs(node).items():
            spot = Spot(node, name)
            value, place = trail.value(spot), trail.place(spot)
            absent = item.required and not item.widget and value is None
            if absent or (is_link(value) and trail.link(spot) is None):
                yield RequestError(
                    f"nothing is linked to {name!r} of {place.kind} ({node})",
                    hint="link it in ComfyUI, check that nothing before it is muted, or export it with "
                    "`Workflow > Export (API)`, which also resolves what extensions link by themselves",
                )


def _strange(trail: Trail, nodes: Iterable[str]) -> Iterator[Unsupported]:
    """Choices that this server does not offer."""
    for node in nodes:
        for name, item in trail.inputs(node).items():
            value = trail.value(Spot(node, name))
            if not offered(value, item):
                yield Unsupported(
                    f"this ComfyUI does not know the {name} {value!r} of {trail.nodes[node]['class_type']} ({node})",
                    hint="update ComfyUI, or the custom nodes that bring it; or choose another there, and save again",
                )
