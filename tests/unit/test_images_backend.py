"""The OpenAI backend: what it sends to each kind of server, what it hears, and every refusal in words."""

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx2
import pytest
from tests.cloud_kit import TOKEN, cloud_model, request, to_its_error, until_idle

from imagen.backends.openai import asking, errors
from imagen.backends.openai.backend import OpenAIImages
from imagen.backends.openai.call import Call
from imagen.backends.openai.dialects import DIALECTS
from imagen.backends.remote.address import Address
from imagen.backends.remote.http import Http
from imagen.backends.remote.mark import Mark
from imagen.core.errors import (
    BadConfig,
    Crashed,
    ImagenError,
    NotConfigured,
    OutOfMemory,
    RateLimited,
    Rejected,
    TimedOut,
    Unreachable,
)
from imagen.core.model import Option
from imagen.core.signals import Handle, Notice, Preview, Signal, Step
from imagen.testing.openai_images import FakeImages
from imagen.testing.signals import Nobody, Watching, collect, outputs, pixels

PLAIN = {"data": [{"b64_json": base64.b64encode(b"\xff\xd8\xff picture").decode()}]}


@asynccontextmanager
async def backend(fake: FakeImages, **settings: Any) -> AsyncIterator[OpenAIImages]:
    """A backend of this server."""
    async with fake.serving() as url:
        made = OpenAIImages({"url": f"{url}/v1", "patience_s": "2", **settings})
        try:
            yield made
        finally:
            await made.aclose()


@pytest.fixture
def paying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Money may be spent: all of it goes to a fake."""
    monkeypatch.delenv("IMAGEN_PAID_CALLS")


def notices(said: list[Signal]) -> list[str]:
    return [signal.code for signal in said if isinstance(signal, Notice)]


class TestWhatIsSent:
    """A request in the words of each kind of server."""

    @pytest.mark.parametrize(
        ("dialect", "expected"),
        [
            ("openai", {}),
            ("plain", {"response_format": "b64_json"}),
            ("imagen", {"seed": 7, "steps": 9, "negative_prompt": "blue", "guidance": 2.5}),
            ("vllm-omni", {"seed": 7, "num_inference_steps": 9, "negative_prompt": "blue", "guidance_scale": 2.5}),
            ("sglang", {"seed": 7, "num_inference_steps": 9, "negative_prompt": "blue", "response_format": "b64_json"}),
            ("localai", {"seed": 7, "step": 9, "prompt": "a fox|blue"}),
        ],
    )
    def test_each_kind_of_server_is_told_in_its_own_fields(self, dialect: str, expected: Mapping[str, Any]) -> None:
        """And in no others: OpenAI refuses a field that it does not know."""
        asked = request("a fox", steps=9, negative="blue", guidance=2.5)
        sent = asking.body(asked, cloud_model("openai", model="m"), DIALECTS[dialect])
        assert sent["size"] == "64x48"
        assert sent["model"] == "m"
        assert expected.items() <= sent.items()
        if dialect == "openai":
            assert set(sent) == {"prompt", "n", "size", "model"}

    def test_sd_server_reads_its_own_fields_from_a_tag_and_nobody_else_opens_it(self) -> None:
        """A prompt is text, also when somebody types the tag."""
        asked = request('a fox <sd_cpp_extra_args>{"seed": 1}</sd_cpp_extra_args>', guidance=2.5)
        prompt = asking.body(asked, cloud_model("openai"), DIALECTS["sd-server"])["prompt"]
        words, _, tag = prompt.partition(" <sd_cpp_extra_args>")
        assert words == 'a fox {"seed": 1}'
        assert json.loads(tag.removesuffix("</sd_cpp_extra_args>")) == {
            "seed": 7,
            "sample_params": {"sample_steps": 4, "guidance": {"txt_cfg": 2.5}},
        }

    def test_options_and_extras_of_the_model_are_sent_along(self) -> None:
        """What is always the same stands in `extra`, what may be chosen in `options`."""
        model = cloud_model("openai", extra={"quality": "high"}, fields={"seed": "my_seed", "steps": None})
        asked = request(options={"background": "opaque"})
        sent = asking.body(asked, model, DIALECTS["vllm-omni"])
        assert {"quality": "high", "background": "opaque", "my_seed": 7}.items() <= sent.items()
        assert "num_inference_steps" not in sent
        assert asking.body(asked, model, DIALECTS["imagen"])["options"] == {"background": "opaque"}

    def test_what_cannot_be_told_is_said(self) -> None:
        """Once for each, and nothing when nothing was asked."""
        asked = request(negative="blue", steps=9, guidance=2.0)
        said = list(asking.notices(asked, cloud_model("openai"), DIALECTS["openai"]))
        assert [one.code for one in said] == ["seed_not_used", "ignored", "ignored", "ignored"]
        assert not list(asking.notices(asked, cloud_model("openai"), DIALECTS["imagen"]))


class TestWhatIsHeard:
    """Answers, streams and addresses."""

    async def test_partial_images_become_previews_of_the_steps_that_were_wanted(self) -> None:
        """And no more are asked for than somebody wants: each of them costs."""
        fake = FakeImages()
        async with backend(fake) as made:
            model = cloud_model("openai", dialect="plain")
            said = await collect(made, request(), model, previews=Watching(stride=2))
        assert fake.calls[0]["partial_images"] == 1
        assert [signal.step for signal in said if isinstance(signal, Preview)] == [2]
        assert [(signal.step, signal.total) for signal in said if isinstance(signal, Step)] == [(2, 4), (4, 4)]

    async def test_where_they_are_free_they_are_asked_for_before_anybody_watches(self) -> None:
        """So that whoever comes later sees the rest; until then only steps are told."""
        fake = FakeImages()
        async with backend(fake) as made:
            said = await collect(made, request(), cloud_model("openai", dialect="imagen"))
        assert fake.calls[0]["partial_images"] == 3
        assert not [signal for signal in said if isinstance(signal, Preview)]
        assert [signal.step for signal in said if isinstance(signal, Step)] == [1, 2, 3, 4]

    async def test_what_the_server_did_not_do_is_passed_on(self) -> None:
        """Another imagen says it in a header."""

        def answer(asked: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, json=PLAIN, headers={"imagen-warning": "no such style"}, request=asked)

        http = Http(Address.of("http://127.0.0.1:9/v1"), "there", transport=httpx2.MockTransport(answer))
        call = Call(
            http=http, model=cloud_model("openai"), dialect=DIALECTS["imagen"], request=request(), previews=Nobody(),
            first=0, of=1, key="one", silence_s=1, hosts=(),
        )  # fmt: skip
        said = [signal async for signal in call.signals(stream=False)]
        await http.aclose()
        assert [one.message for one in said if isinstance(one, Notice)] == ["there says: no such style"]

    async def test_several_pictures_are_asked_for_one_by_one_or_together(self) -> None:
        """Each with its own seed, or in one request with what the server makes of it."""
        for together, calls in ((False, 2), (True, 1)):
            fake = FakeImages()
            async with backend(fake) as made:
                model = cloud_model("openai", dialect="imagen", together=together)
                said = await collect(made, request(n=2), model, previews=Watching())
            assert len(fake.calls) == calls
            assert [output.index for output in outputs(said)] == [0, 1]
            assert [output.seed for output in outputs(said)] == ([7, None] if together else [7, 8])
            assert notices(said) == (["seed_not_used"] if together else [])

    async def test_a_server_that_ignores_stream_is_asked_once(self) -> None:
        """Its plain answer is the picture, and a notice says why nothing was seen forming."""
        fake = FakeImages(streams=False)
        async with backend(fake) as made:
            said = await collect(made, request(), cloud_model("openai", stream=True), previews=Watching())
        assert len(fake.calls) == 1
        assert "preview_not_possible" in notices(said)

    async def test_a_server_that_refuses_stream_is_remembered(self) -> None:
        """The second picture is asked for without it at once."""
        fake = FakeImages(streams=None)
        async with backend(fake) as made:
            for _ in range(2):
                await collect(made, request(), cloud_model("openai"), previews=Watching())
        assert len(fake.asked("POST")) == 3
        assert len(fake.calls) == 2

    async def test_an_address_on_the_same_host_is_copied_from_at_once(self) -> None:
        """One that leads nowhere any more is no picture."""
        fake = FakeImages(urls=True)
        async with backend(fake) as made:
            (output,) = outputs(await collect(made, request(), cloud_model("openai")))
            assert output.mime == "image/png"
            fake.answer("/files/1.png", 403, b"")
            with pytest.raises(Crashed, match="no picture"):
                await collect(made, request(), cloud_model("openai"))

    async def test_facts_are_what_the_server_and_the_owner_say(self) -> None:
        """Tokens used by its count, money by the price in the model's file, memory where it tells."""
        fake = FakeImages()
        async with backend(fake) as made:
            (output,) = outputs(await collect(made, request(), cloud_model("openai", price_per_image=0.04)))
            assert output.facts["cost"] == 0.04
            assert output.facts["usage"]["total_tokens"] == 108
            assert output.seed is None
            picture = json.dumps({"data": [{"b64_json": "iVBORw0KGgo="}], "peak_memory_mb": 5120.4})
            fake.answer("/v1/images/generations", 200, picture)
            (output,) = outputs(await collect(made, request(), cloud_model("openai")))
            assert output.facts == {"vram_peak_mib": 5120, "vram_method": "server"}

    async def test_a_picture_may_be_the_answer_itself(self) -> None:
        """As vLLM-Omni gives it for `response_format: file`."""
        fake = FakeImages()
        async with backend(fake) as made:
            fake.answer("/v1/images/generations", 200, b"\xff\xd8\xff picture", mime="image/jpeg")
            (output,) = outputs(await collect(made, request(), cloud_model("openai")))
            assert output.mime == "image/jpeg"

    async def test_leaving_closes_the_connection_and_the_server_stops(self) -> None:
        """That is all the cancelling this API knows."""
        fake = FakeImages(step_s=0.05)
        async with backend(fake) as made:
            said = made.generate(request(), cloud_model("openai", stream=True), Watching())
            async with aclosing(said):
                async for signal in said:
                    if isinstance(signal, Step):
                        break
            await until_idle(fake)
            assert len(fake.cancelled) == 1


class TestRefusals:
    """Every answer that is not a good one."""

    @pytest.mark.parametrize(
        ("status", "body", "kind", "word"),
        [
            (401, {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}, NotConfigured, "token"),
            (403, {"error": {"message": "must be verified"}}, NotConfigured, "verified"),
            (402, {"detail": "pay first"}, NotConfigured, "pay first"),
            (429, {"error": {"message": "quota", "code": "insufficient_quota"}}, NotConfigured, "quota"),
            (400, {"error": {"message": "limit", "code": "billing_hard_limit_reached"}}, NotConfigured, "limit"),
            (404, {"error": {"message": "no model x", "code": "model_not_found"}}, NotConfigured, "no model x"),
            (404, {"detail": "Not Found"}, NotConfigured, "no such route"),
            (400, {"error": {"message": "rejected", "code": "moderation_blocked"}}, Rejected, "refuses this prompt"),
            (400, {"error": {"message": "n must be 1", "param": "n"}}, Rejected, "n must be 1"),
            (422, {"detail": [{"loc": ["body", "size"], "msg": "bad"}]}, Rejected, "body.size: bad"),
            (413, {}, Rejected, "HTTP 413"),
            (429, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, RateLimited, "slow down"),
            (408, {}, TimedOut, "gave up"),
            (504, {}, TimedOut, "gave up"),
            (503, {"detail": "Diffusion engine not initialized."}, Unreachable, "not initialized"),
            (502, {}, Unreachable, "HTTP 502"),
            (500, {"error": {"message": "CUDA out of memory"}}, OutOfMemory, "out of memory"),
            (500, {"error": "it broke"}, Crashed, "it broke"),
            (405, {"detail": "Method Not Allowed"}, NotConfigured, "no such route"),
            (501, {}, NotConfigured, "no such route"),
            (301, {}, NotConfigured, "moved"),
        ],
    )
    def test_each_is_an_error_that_says_what_to_do(
        self, status: int, body: Any, kind: type[ImagenError], word: str
    ) -> None:
        """In the words of the server, as far as it has any."""
        client = Http(Address.of("http://127.0.0.1:9/v1"), "the server")
        response = httpx2.Response(status, json=body, request=httpx2.Request("POST", "http://x/"))
        error = errors.answered(client, response, body)
        assert type(error) is kind
        assert word in error.message
        assert error.hint

    async def test_a_server_that_asks_for_patience_is_given_it(self) -> None:
        """As long as it says, and as long as the settings allow."""
        fake = FakeImages()
        fake.rate_limit(retry_after_s=0.05)
        async with backend(fake) as made:
            assert outputs(await collect(made, request(), cloud_model("openai")))
            fake.rate_limit(retry_after_s=30)
            with pytest.raises(RateLimited) as caught:
                await collect(made, request(), cloud_model("openai"))
            assert caught.value.retry_after_s == 30

    async def test_an_error_in_the_middle_of_a_stream_is_an_error(self) -> None:
        """And so is a stream that ends before its picture, or a picture that is not there."""
        fake = FakeImages()
        async with backend(fake) as made:
            model = cloud_model("openai")
            fake.fail_in_stream("it broke in the middle")
            with pytest.raises(Rejected, match="it broke in the middle"):
                await collect(made, request(), model, previews=Watching())
            fake.drop(after=1)
            with pytest.raises(Unreachable):
                await collect(made, request(), model, previews=Watching())
            fake.blank()
            with pytest.raises(Crashed, match="gave no picture"):
                await collect(made, request(), model, previews=Watching())
            fake.answer("/v1/images/generations", 200, "<html>", mime="text/html")
            with pytest.raises(NotConfigured, match="no list of pictures"):
                await collect(made, request(), model)


class TestMoney:
    """What was paid for once is not asked for again."""

    async def test_without_a_token_nothing_is_sent_to_openai(
        self, paying: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has no use for a request without one; check() says the same."""
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        made = OpenAIImages({})
        with pytest.raises(NotConfigured, match="no token") as caught:
            await collect(made, request(), cloud_model("openai"))
        assert "IMAGEN_OPENAI_TOKEN" in caught.value.hint
        (check,) = await made.check(cloud_model("openai"))
        assert check.error is not None
        assert check.error.hint == caught.value.hint
        (check,) = await made.check(cloud_model("openai", token_env="MY_KEY"))
        assert check.error is not None
        assert "MY_KEY is not set" in check.error.hint
        await made.aclose()

    async def test_a_server_of_ones_own_that_costs_money_may_have_no_keys(self, paying: None) -> None:
        """`paid` says what a picture costs, not that somebody checks who asks."""
        fake = FakeImages()
        async with backend(fake) as made:
            model = cloud_model("openai", paid=True, model="gpt-image-2")
            checks = await made.check(model)
            assert all(check.ok for check in checks), checks
            assert "costs money; no token is sent" in checks[0].note
            assert outputs(await collect(made, request(), model))

    async def test_the_switch_forbids_it(self) -> None:
        """As it does in every test that does not take it away."""
        fake = FakeImages(token=TOKEN)
        async with backend(fake, token=TOKEN) as made:
            with pytest.raises(NotConfigured, match="IMAGEN_PAID_CALLS"):
                await collect(made, request(), cloud_model("openai", paid=True))
        assert fake.asked("POST") == []

    async def test_a_call_that_was_interrupted_is_not_sent_again(self, paying: None) -> None:
        """Nobody can be asked what became of it, so a person decides."""
        fake = FakeImages(token=TOKEN)
        async with backend(fake, token=TOKEN) as made:
            model = cloud_model("openai", paid=True)
            first = await collect(made, request(n=2), model, until=lambda one: isinstance(one, Handle))
            (handle,) = [one for one in first if isinstance(one, Handle)]
            with pytest.raises(Crashed, match="interrupted") as caught:
                await collect(made, request(n=2), model, resume=handle.token)
            assert not caught.value.retryable
            assert fake.calls == []
            # A server that heeds the key of a call may be asked again: it is the same call.
            heeds = cloud_model("openai", paid=True, idempotent=True)
            assert len(outputs(await collect(made, request(n=2), heeds, resume=handle.token))) == 2

    async def test_a_lost_answer_is_not_retried_and_a_refusal_is(self, paying: None) -> None:
        """The one may have been drawn. The other says itself that it was not, and leaves word of it."""
        fake = FakeImages(token=TOKEN)
        async with backend(fake, token=TOKEN) as made:
            model = cloud_model("openai", paid=True)
            fake.lose_reply("/v1/images/generations")
            with pytest.raises(Crashed, match="interrupted"):
                await collect(made, request(), model)
            assert len(fake.calls) == 1
            fake.fail(503, "overloaded")
            said, error = await to_its_error(made, request(), model)
            assert isinstance(error, Unreachable)
            mark = Mark.of([one for one in said if isinstance(one, Handle)][-1].token)
            assert mark is not None
            assert mark.free
            assert outputs(await collect(made, request(), model, resume=mark.token))

    @pytest.mark.parametrize("heeds", [True, False])
    async def test_a_call_to_a_server_of_ones_own_is_simply_sent_again(self, heeds: bool) -> None:
        """With the same key where that is heeded, so that it is not drawn twice; what is there is not redone."""
        fake = FakeImages(heed_keys=True, streams=False)
        async with backend(fake) as made:
            model = cloud_model("openai", dialect="imagen", idempotent=heeds)
            whole = await collect(made, request(n=2), model)
            tokens = [one.token for one in whole if isinstance(one, Handle)]
            again = await collect(made, request(n=2), model, resume=tokens[-1])
            assert [output.index for output in outputs(again)] == [1]
            assert pixels(outputs(again)[0]) == pixels(outputs(whole)[1])
            assert len(fake.calls) == (2 if heeds else 3)

    async def test_a_call_that_may_be_sent_again_is_the_same_whoever_watches(self) -> None:
        """A server refuses another body under the same key."""
        fake = FakeImages(heed_keys=True)
        async with backend(fake) as made:
            model = cloud_model("openai", dialect="imagen", idempotent=True)
            for watcher in (Nobody(), Watching()):
                await collect(made, request(), model, previews=watcher)
        assert fake.calls[0] == fake.calls[1]


class TestChecks:
    """What would go wrong, before anybody asks for a picture."""

    async def test_a_server_says_who_it_is_and_what_it_has(self) -> None:
        """A list that is complete is held against the model's name."""
        fake = FakeImages(token=TOKEN)
        async with backend(fake, token=TOKEN) as made:
            for keys, ok in (
                ({"model": "gpt-image-2"}, True),
                ({"model": "gpt-image-9", "dialect": "openai"}, False),
                ({"model": "gpt-image-9", "dialect": "imagen"}, False),
                ({"model": "gpt-image-9"}, False),
                ({"model": "gpt-image-9", "dialect": "sd-server"}, True),  # whose list has one name for everything
                ({}, True),
            ):
                checks = await made.check(cloud_model("openai", **keys))
                assert all(check.ok for check in checks) is ok, checks

    async def test_a_name_that_is_not_listed_is_answered_with_those_that_are(self) -> None:
        """The nearest first, and not all of hundreds."""
        fake = FakeImages(models=("tiny-3d", "mock", "models/imagen-4", *(f"other-{one}" for one in range(9))))
        async with backend(fake) as made:
            (check,) = await made.check(cloud_model("openai", model="tiny3d", dialect="imagen"))
            assert check.error is not None
            assert "no model 'tiny3d'" in check.error.message
            assert "it has: tiny-3d, " in check.error.hint
            assert check.error.hint.endswith("and 7 more")
            (check,) = await made.check(cloud_model("openai", model="imagen-4"))  # as Google lists and calls it
            assert check.ok
            fake.answer("/v1/models", 200, '{"object": "list", "data": null}')  # as Ollama says that it has none
            (check,) = await made.check(cloud_model("openai", model="tiny-3d"))
            assert check.error is not None
            assert "it has none" in check.error.hint
            fake.answer("/v1/models", 200, '[{"id": "tiny-3d"}]')  # as Together lists them
            (check,) = await made.check(cloud_model("openai", model="tiny-3d"))
            assert check.ok

    @pytest.mark.parametrize(
        ("status", "body", "mime", "dialect", "ok"),
        [
            (404, "{}", "application/json", "plain", True),
            (404, "", "text/plain", "plain", True),
            (404, "{}", "application/json", "imagen", False),
            (404, "{}", "application/json", "vllm-omni", False),
            (404, "<html>", "text/html", "plain", False),
            (501, "<html>", "text/html;charset=utf-8", "plain", False),
            (200, "<html>", "text/html", "plain", False),
            (200, "<html>", "text/html", "sd-server", False),
            (200, '{"status": "ok"}', "application/json", "plain", False),
            (200, '{"data": ["one"]}', "application/json", "plain", False),
            (200, "[1]", "application/json", "plain", False),
        ],
    )
    async def test_what_has_no_list_of_models_is_such_a_server_only_where_its_kind_may_have_none(
        self, status: int, body: str, mime: str, dialect: str, ok: bool
    ) -> None:
        """A web site never is one, whatever it answers with."""
        fake = FakeImages()
        async with backend(fake) as made:
            fake.answer("/v1/models", status, body, mime=mime)
            (check,) = await made.check(cloud_model("openai", dialect=dialect, model="mine"))
            assert check.ok is ok
            if check.error is None:
                assert "no list of models" in check.note
            else:
                assert "no list of models" in check.error.message
                assert "/v1" in check.error.hint
            assert len(fake.requests) == 1

    @pytest.mark.parametrize("dialect", ["imagen", "plain", "vllm-omni"])
    async def test_a_url_without_its_v1_is_told_how_to_end(self, dialect: str) -> None:
        """By the check, and by a drawing that did not wait for it."""
        other = FakeImages()
        async with backend(FakeImages()) as made, other.serving() as url:
            model = cloud_model("openai", url=url, dialect=dialect)
            (check,) = await made.check(model)
            _, error = await to_its_error(made, request(), model)
            for found in (check.error, error):
                assert isinstance(found, NotConfigured)
                assert f"write {url}/v1" in found.hint

    async def test_a_web_site_is_told_from_a_server_that_broke(self) -> None:
        """Its log would say nothing: it is the `url` that is wrong."""
        fake = FakeImages()
        async with backend(fake) as made:
            fake.answer("/v1/images/generations", 501, "<html>Unsupported method", mime="text/html;charset=utf-8")
            _, error = await to_its_error(made, request(), cloud_model("openai"))
            assert isinstance(error, NotConfigured)
            assert "no server with an OpenAI Images API: HTTP 501" in error.message
            assert "is `url` right?" in error.hint
            fake.answer("/v1/images/generations", 500, "")
            _, error = await to_its_error(made, request(), cloud_model("openai"))
            assert isinstance(error, Crashed)
            assert "is `url` right?" in error.hint

    async def test_the_hint_for_a_token_names_the_place_that_counts_for_this_server(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The environment's token is not sent to a server that only the model names, so it is not asked for."""
        monkeypatch.delenv("BOX_KEY", raising=False)
        mine, other = FakeImages(token="another"), FakeImages(token="another")

        async def hint(made: OpenAIImages, **keys: Any) -> str:
            (check,) = await made.check(cloud_model("openai", **keys))
            assert isinstance(check.error, NotConfigured)
            return check.error.hint

        async with backend(mine, token=TOKEN) as made, other.serving() as url:
            assert "IMAGEN_OPENAI_TOKEN" in await hint(made)
            foreign = await hint(made, url=f"{url}/v1")
            assert "`token_env: NAME_OF_A_VARIABLE`" in foreign
            assert "IMAGEN_OPENAI_TOKEN" not in foreign
            named = {"url": f"{url}/v1", "token_env": "BOX_KEY"}
            assert "BOX_KEY is not set" in await hint(made, **named)
            _, error = await to_its_error(made, request(), cloud_model("openai", **named))
            assert "BOX_KEY is not set" in error.hint
            monkeypatch.setenv("BOX_KEY", "wrong")
            assert "it came from BOX_KEY" in await hint(made, **named)
            monkeypatch.setenv("BOX_KEY", "another")
            assert (await made.check(cloud_model("openai", **named)))[0].ok

    async def test_a_named_variable_without_a_token_is_a_remark_where_none_is_wanted(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The server may list its models to everybody, and draw for some."""
        monkeypatch.delenv("BOX_KEY", raising=False)
        async with backend(FakeImages()) as made:
            (check,) = await made.check(cloud_model("openai", token_env="BOX_KEY"))
            assert check.ok
            assert "BOX_KEY is not set" in check.note

    async def test_a_token_that_is_not_taken_is_found_early_and_never_shown(self) -> None:
        """The error holds no part of it."""
        fake = FakeImages(token="another")
        async with backend(fake, token=TOKEN) as made:
            (check,) = await made.check(cloud_model("openai"))
            assert isinstance(check.error, NotConfigured)
            assert TOKEN not in json.dumps(check.error.as_dict())

    async def test_a_token_is_not_sent_to_another_server_that_a_model_names(self) -> None:
        """Each server has its own, by the name of a variable."""
        mine, other = FakeImages(), FakeImages()
        async with backend(mine, token=TOKEN) as made, other.serving() as url:
            await collect(made, request(), cloud_model("openai", url=f"{url}/v1"))
            assert "authorization" not in other.requests[-1].headers
            await collect(made, request(), cloud_model("openai"))
            assert mine.requests[-1].headers["authorization"] == f"Bearer {TOKEN}"

    async def test_nonsense_in_the_settings_is_named(self) -> None:
        """A number of seconds is a number."""
        async with backend(FakeImages(), timeout_s="soon") as made:
            with pytest.raises(BadConfig, match="timeout_s"):
                await collect(made, request(), cloud_model("openai"))


def test_an_option_of_the_model_may_be_chosen() -> None:
    """As any other: the catalog checks it, the server gets it."""
    model = cloud_model("openai", options={"quality": Option(choices=("low", "high"), default="low")})
    assert asking.body(request(options={"quality": "high"}), model, DIALECTS["openai"])["quality"] == "high"
