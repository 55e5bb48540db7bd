"""The five verbs as tools of the Model Context Protocol: how each is described, and how its answers are carried."""

import base64
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from pydantic import BaseModel, ValidationError

from imagen.app import VERSION
from imagen.core.errors import ImagenError, RequestError
from imagen.surfaces.mcp import shapes, verbs
from imagen.surfaces.mcp.edge import Edge
from imagen.surfaces.mcp.verbs import Answer
from imagen.surfaces.mcp.waiting import Notes

INSTRUCTIONS = """Draws pictures from words with the models of an imagen, which may be on another machine.

`models` says which are ready; without a model, `generate` takes the default one. `generate` and `compare` answer within
seconds, with an id: work that takes longer goes on by itself, also when a call is cancelled or times out. Then `status`
with the id (and a `wait_s`) says how far it is, and with `cancel` ends it; without an id it lists the latest jobs.
`fetch` brings the picture. A job that failed is an answer with its `error`, not a failed call.
Answers hold a small picture; the whole one is at their `path` or `url`. Before something long or paid, ask with
`dry_run`. An error says what to do next in its `hint`."""

log = logging.getLogger(__name__)

Context = ServerRequestContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One verb, as it is offered."""

    run: verbs.Verb
    asked: type[BaseModel]
    said: type[BaseModel]
    told: types.Tool


def offered(*, here: bool) -> Mapping[str, Tool]:
    """The tools; only on this machine can a picture be copied to a folder."""
    reads = types.ToolAnnotations(read_only_hint=True, open_world_hint=False)
    # Adds jobs and pictures, takes nothing away; twice is two pictures; a model may be a service elsewhere.
    draws = types.ToolAnnotations(
        read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True
    )
    # Asks, and ends a job where it was told to; what is drawn stays.
    ends = types.ToolAnnotations(
        read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
    )
    copies = types.ToolAnnotations(
        read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
    )
    return {
        "models": _tool(
            verbs.models,
            shapes.Models,
            shapes.ModelsSaid,
            reads,
            "List image models",
            "Which image models there are, which are ready, and why the others are not. With `model`: its sizes, "
            "limits and options.",
        ),
        "generate": _tool(
            verbs.generate,
            shapes.Generate,
            shapes.GenerateSaid,
            draws,
            "Draw a picture",
            "Draw a picture from a prompt. Answers with the job's id after at most `wait_s`, finished or not; the job "
            "goes on by itself. With `dry_run`: time, memory and cost as seen so far, and nothing is drawn. A model "
            "that is `paid` costs money: ask your user first.",
        ),
        "status": _tool(
            verbs.status,
            shapes.Status,
            shapes.StatusSaid,
            ends,
            "How far it is",
            "How a job or a comparison stands, with a small picture; `wait_s` waits for its end, `cancel` ends it. "
            "Without `id`: the latest jobs.",
        ),
        "compare": _tool(
            verbs.compare,
            shapes.Compare,
            shapes.CompareSaid,
            draws,
            "Compare models",
            "Draw the same prompts with several models and the same seeds, side by side on one sheet. Answers with the "
            "comparison's id after at most `wait_s`. With `dry_run`: what it would take.",
        ),
        "fetch": _tool(
            verbs.fetch,
            shapes.FetchHere if here else shapes.Fetch,
            shapes.FetchSaid,
            copies if here else reads,
            "Bring a picture",
            "A finished picture: a small copy here, and the whole one at `path`"
            + (", or copied to `save_to`." if here else " or `url`."),
        ),
    }


def make_server(edge_of: Callable[[Context], Edge], *, here: bool) -> "Server[Any]":
    """The protocol's server, for one process on standard input and output or for all callers of an HTTP server."""
    tools = offered(here=here)

    async def listed(_context: Context, _params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[tool.told for tool in tools.values()])

    async def called(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        edge = edge_of(context)
        try:
            tool = tools.get(params.name)
            if tool is None:
                raise RequestError(f"there is no tool {params.name!r}", hint=f"tools: {', '.join(tools)}")
            asked = _read(tool.asked, params.arguments or {})
            return _result(await tool.run(edge, asked, Notes(context.session.report_progress)))
        except ImagenError as error:
            return _refused(edge.trouble(error))
        except Exception:  # the one boundary of this surface
            log.exception("%s failed", params.name)
            inside = ImagenError("something went wrong inside", hint="the log of imagen says what; please report it")
            return _refused(edge.trouble(inside) | {"code": "internal_error"})

    def input_schema(name: str) -> Mapping[str, Any] | None:
        return tools[name].told.input_schema if name in tools else None

    return Server(
        "imagen",
        version=VERSION,
        title="imagen",
        instructions=INSTRUCTIONS,
        get_tool_input_schema=input_schema,
        on_list_tools=listed,
        on_call_tool=called,
    )


def _tool(
    run: verbs.Verb,
    asked: type[BaseModel],
    said: type[BaseModel],
    annotations: types.ToolAnnotations,
    title: str,
    description: str,
) -> Tool:
    told = types.Tool(
        name=run.__name__,
        title=title,
        description=description,
        input_schema=shapes.schema_of(asked),
        output_schema=shapes.schema_of(said),
        annotations=annotations,
    )
    return Tool(run=run, asked=asked, said=said, told=told)


def _read(kind: type[BaseModel], arguments: Mapping[str, Any]) -> BaseModel:
    if kind is shapes.Fetch and "save_to" in arguments:
        hint = "take `url`: it is the whole picture, to be saved where you are"
        raise RequestError("a server saves nothing on your side", hint=hint, param="save_to")
    try:
        return kind.model_validate(arguments)
    except ValidationError as wrong:
        from imagen.surfaces.http.refusals import explained  # the words are the same at every door

        errors = [{**error, "loc": ("arguments", *error["loc"])} for error in wrong.errors()]
        raise explained(errors, list(kind.model_fields)) from None


def _result(answer: Answer) -> types.CallToolResult:
    data = shapes.bare(dict(answer.data))
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    small = [types.ImageContent(data=base64.b64encode(one).decode(), mime_type="image/jpeg") for one in answer.pictures]
    return types.CallToolResult(content=[types.TextContent(text=text), *small], structured_content=data)


def _refused(error: Mapping[str, Any]) -> types.CallToolResult:
    # Not as structured content: clients hold that against the schema of an answer, and some also of a failed one.
    text = json.dumps({"error": shapes.bare(dict(error))}, ensure_ascii=False)
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=True)
