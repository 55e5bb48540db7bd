"""The Replicate backend: one prediction for each picture, whatever happens, and every refusal in words."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cloud_kit import TOKEN, cloud_model, request, to_its_error, until_idle

from imagen.backends.remote.address import Address
from imagen.backends.remote.http import Http
from imagen.backends.replicate import errors, inputs
from imagen.backends.replicate.backend import Replicate
from imagen.backends.replicate.cloud import Cloud
from imagen.backends.replicate.inputs import Schema
from imagen.backends.replicate.ledger import Ledger
from imagen.backends.replicate.telling import Teller
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
from imagen.core.signals import Handle, Notice, Phase, Preview, Signal, Step
from imagen.testing.cog import FakeCog
from imagen.testing.replicate import FakeReplicate
from imagen.testing.replicate_model import VERSION
from imagen.testing.signals import Nobody, Watching, collect, outputs, pixels

CREATE = "/v1/models/some/flux/predictions"
FLUX = cloud_model("replicate", model="some/flux", paid=True)


@pytest.fixture(autouse=True)
def paying(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Money may be spent: all of it goes to a fake."""
    if "switch" not in request.node.name:
        monkeypatch.delenv("IMAGEN_PAID_CALLS")


@asynccontextmanager
async def backend(fake: FakeReplicate, **settings: Any) -> AsyncIterator[Replicate]:
    """A backend of this service, in a hurry."""
    async with fake.serving() as url:
        made = Replicate({"api": f"{url}/v1", "token": TOKEN, "poll_s": "0.01", "patience_s": "0.3", **settings})
        try:
            yield made
        finally:
            await made.aclose()


@asynccontextmanager
async def container(fake: FakeCog, **settings: Any) -> AsyncIterator[Replicate]:
    """A backend of this container."""
    async with fake.serving() as url:
        made = Replicate({"url": url, "poll_s": "0.01", "patience_s": "3", **settings})
        try:
            yield made
        finally:
            await made.aclose()


def handles(said: list[Signal]) -> list[str]:
    return [signal.token for signal in said if isinstance(signal, Handle)]


class TestPaidOnce:
    """A prediction is never made twice."""

    async def test_a_call_that_ended_anywhere_goes_on_with_its_predictions(self) -> None:
        """Killed after any signal at all, and resumed with the last handle: as many predictions as pictures."""
        whole: list[Signal] = []
        fake = FakeReplicate(token=TOKEN, step_s=0.01)
        async with backend(fake) as made:
            whole = await collect(made, request(n=2), FLUX)
        pictures = [pixels(output) for output in outputs(whole)]
        assert len(fake.predictions) == 2
        for ending in range(1, len(whole) + 1):
            fake = FakeReplicate(token=TOKEN, step_s=0.01)
            async with backend(fake) as made:
                said = await killed(made, fake, ending)
                tokens = handles(said)
                again = await collect(made, request(n=2), FLUX, resume=tokens[-1] if tokens else None)
            found = {output.index: pixels(output) for output in [*outputs(said), *outputs(again)]}
            assert [found[0], found[1]] == pictures, f"ended after signal {ending}"
            assert len(fake.predictions) == 2, f"ended after signal {ending}"
            assert fake.cancelled == []

    async def test_a_lost_answer_is_looked_for_and_not_asked_for_again(self) -> None:
        """The prediction was made, and its id never came: it is in the list, if not at once."""
        for hidden in (0, 2):
            fake = FakeReplicate(token=TOKEN)
            fake.hide(hidden)
            fake.lose_reply(CREATE)
            async with backend(fake) as made:
                assert outputs(await collect(made, request(), FLUX))
            assert len(fake.predictions) == 1

    async def test_a_lost_answer_is_found_by_the_next_attempt_too(self) -> None:
        """When it was not listed soon enough, the attempt fails and is worth a retry, which finds it."""
        fake = FakeReplicate(token=TOKEN)
        fake.hide(3)
        fake.lose_reply(CREATE)
        async with backend(fake) as made:
            said, error = await to_its_error(made, request(), FLUX)
            assert error.retryable
            assert outputs(await collect(made, request(), FLUX, resume=handles(said)[-1]))
        assert len(fake.predictions) == 1

    async def test_other_predictions_are_not_taken_for_ours(self) -> None:
        """Neither one of another input, nor one of another time, nor one that was stopped."""
        fake = FakeReplicate(token=TOKEN)
        async with backend(fake) as made:
            await collect(made, request("another prompt"), FLUX)
            await collect(made, request(), FLUX)
            await collect(made, request(), FLUX)
            old, stopped = fake.predictions[1:]
            old.created_at -= timedelta(hours=1)
            stopped.status = "canceled"
            token = Ledger.new(1).about_to_ask(0).token
            assert outputs(await collect(made, request(), FLUX, resume=token))
        assert len(fake.predictions) == 4

    async def test_when_the_records_are_gone_a_person_decides(self) -> None:
        """An hour later the service knows that something was made, and not what."""
        fake = FakeReplicate(token=TOKEN)
        async with backend(fake) as made:
            said = await collect(made, request(), FLUX)
            fake.remove_data()
            for token, word in ((handles(said)[0], "cannot be known"), (handles(said)[-1], "deleted there")):
                with pytest.raises(Rejected, match=word) as caught:
                    await collect(made, request(), FLUX, resume=token)
                assert not caught.value.retryable
        assert len(fake.predictions) == 1

    async def test_a_file_that_expired_is_not_drawn_again(self) -> None:
        """It was paid for; whether it is worth that again, a person knows."""
        fake = FakeReplicate(token=TOKEN)
        async with backend(fake) as made:
            said = await collect(made, request(), FLUX)
            fake.expire_files()
            with pytest.raises(Rejected, match="deleted there"):
                await collect(made, request(), FLUX, resume=handles(said)[-1])
        assert len(fake.predictions) == 1

    async def test_a_service_that_is_away_for_a_while_is_waited_for(self) -> None:
        """The prediction goes on meanwhile; too long is an error worth a retry, which joins it."""
        fake = FakeReplicate(token=TOKEN, step_s=0.1)
        async with backend(fake, patience_s="5") as made:
            drawing = asyncio.create_task(collect(made, request(), FLUX))
            while not fake.predictions:
                await asyncio.sleep(0.01)
            await fake.restart(down_s=0.3)
            assert outputs(await drawing)
        assert len(fake.predictions) == 1

    async def test_what_we_stopped_ourselves_is_asked_for_again(self) -> None:
        """A worker that ends politely gives the job back; its prediction was cancelled and gave nothing."""
        fake = FakeReplicate(token=TOKEN, step_s=0.05)
        async with backend(fake) as made:
            said = await collect(made, request(), FLUX, until=lambda one: isinstance(one, Step))
            assert [one.status for one in fake.predictions] == ["canceled"]
            assert outputs(await collect(made, request(), FLUX, resume=handles(said)[-1]))
        assert len(fake.predictions) == 2

    async def test_the_switch_forbids_it(self) -> None:
        """As it does in every test that does not take it away."""
        fake = FakeReplicate(token=TOKEN)
        async with backend(fake) as made:
            with pytest.raises(NotConfigured, match="IMAGEN_PAID_CALLS"):
                await collect(made, request(), FLUX)
        assert fake.predictions == []

    @given(st.lists(st.booleans(), min_size=1, max_size=5), st.integers(0, 4))
    def test_a_ledger_is_read_back_as_it_was_written(self, known: list[bool], asking: int) -> None:
        """And nothing else is taken for one."""
        ledger = Ledger.new(len(known))
        for index, one in enumerate(known):
            ledger = ledger.has(index, f"id{index}") if one else ledger
        if asking < len(known):
            ledger = ledger.about_to_ask(asking)
            assert ledger.window is not None
            begin, end = ledger.window
            assert begin < datetime.now(UTC) < end
        assert Ledger.of(ledger.token, len(known)) == ledger
        assert Ledger.of(ledger.token, len(known) + 1) is None
        for other in (None, "", "{}", "[]", "0" * 32 + "#1", "7"):
            assert Ledger.of(other, len(known)) is None


class TestStopping:
    """Whoever leaves does not go on paying."""

    async def test_leaving_cancels_every_prediction_of_the_call(self) -> None:
        """Also those of pictures whose turn has not come."""
        fake = FakeReplicate(token=TOKEN, step_s=0.2)
        async with backend(fake) as made:
            await collect(made, request(n=3), FLUX, until=lambda one: isinstance(one, Step))
            assert [one.status for one in fake.predictions] == ["canceled"] * 3

    async def test_a_prediction_that_was_just_being_asked_for_is_cancelled_too(self) -> None:
        """Its id comes first, so that there is something to cancel."""
        fake = FakeReplicate(token=TOKEN, step_s=0.2)
        async with backend(fake) as made:
            fake.delay(CREATE, 0.2)
            drawing = asyncio.create_task(collect(made, request(), FLUX))
            while not fake.asked("POST"):
                await asyncio.sleep(0.01)
            drawing.cancel()
            await asyncio.gather(drawing, return_exceptions=True)
            assert [one.status for one in fake.predictions] == ["canceled"]

    async def test_one_that_takes_too_long_is_cancelled(self) -> None:
        """By us, and by the service itself should we be gone by then."""
        fake = FakeReplicate(token=TOKEN)
        fake.hold()
        async with backend(fake, timeout_s="0.2") as made:
            with pytest.raises(Crashed, match="longer than"):
                await collect(made, request(), FLUX)
            assert [one.status for one in fake.predictions] == ["canceled"]
        assert fake.asked("POST")[0].headers["cancel-after"] == "5s"

    async def test_one_that_fails_ends_the_others(self) -> None:
        """A job fails as a whole, so what is left of it is not paid for."""
        fake = FakeReplicate(token=TOKEN, step_s=0.05)
        async with backend(fake) as made:
            fake.fail("it broke")
            with pytest.raises(Crashed, match="it broke"):
                await collect(made, request(n=2), FLUX)
            assert [one.status for one in fake.predictions] == ["failed", "canceled"]

    async def test_one_that_somebody_else_stops_is_said_to_be_stopped(self) -> None:
        """On the service's page, or by its own deadline."""
        fake = FakeReplicate(token=TOKEN, step_s=0.2)
        async with backend(fake) as made:
            drawing = asyncio.create_task(to_its_error(made, request(), FLUX))
            while not fake.predictions:
                await asyncio.sleep(0.01)
            fake.somebody_cancels()
            _, error = await drawing
            assert isinstance(error, Rejected)
            assert "canceled" in error.message
            fake.abort()
            with pytest.raises(Rejected, match="aborted"):
                await collect(made, request(), FLUX)


class TestWhatIsSent:
    """The inputs of a model."""

    async def test_a_model_gets_only_the_inputs_that_it_has(self) -> None:
        """By what it says of itself; what was asked and it has no input for is a notice."""
        few: dict[str, dict[str, Any]] = {
            "prompt": {"type": "string"},
            "aspect_ratio": {"type": "string", "default": "1:1", "enum": ["1:1", "16:9", "4:3", "custom"]},
            "guidance": {"type": "number"},
        }
        fake = FakeReplicate(token=TOKEN, inputs=few)
        async with backend(fake) as made:
            said = await collect(made, request(negative="blue", guidance=2.0), FLUX)
        assert fake.predictions[0].input == {"prompt": "a red fox", "aspect_ratio": "4:3", "guidance": 2.0}
        assert [one.code for one in said if isinstance(one, Notice)] == ["seed_not_used", "ignored"]
        assert outputs(said)[0].seed is None

    async def test_a_model_may_be_named_in_three_ways(self) -> None:
        """By its name, with a version, or as a deployment of one's own."""
        for keys, path in (
            ({"model": "some/flux"}, CREATE),
            ({"model": f"some/flux:{VERSION}"}, "/v1/predictions"),
            ({"deployment": "me/flux"}, "/v1/deployments/me/flux/predictions"),
        ):
            fake = FakeReplicate(token=TOKEN)
            async with backend(fake) as made:
                model = cloud_model("replicate", **keys)
                said = await collect(made, request(), model)
                assert outputs(said)
                assert fake.asked("POST")[0].path == path
                # Each of them is found again, too.
                assert outputs(await collect(made, request(), model, resume=handles(said)[0]))
                assert len(fake.predictions) == 1

    async def test_a_model_that_is_named_in_none_or_two_is_refused(self) -> None:
        """Before anything is sent."""
        fake = FakeReplicate(token=TOKEN)
        async with backend(fake) as made:
            for keys in ({}, {"model": "some/flux", "deployment": "me/flux"}):
                with pytest.raises(BadConfig, match="only one of them"):
                    await collect(made, request(), cloud_model("replicate", **keys))
        assert fake.requests == []

    def test_inputs_may_be_renamed_and_added(self) -> None:
        """A model's own words win over the usual ones, and null takes one away."""
        keys: dict[str, Any] = {"inputs": {"steps": "sampling_steps", "seed": None}, "extra": {"output_format": "png"}}
        sent = inputs.inputs(request(options={"go_fast": True}), cloud_model("replicate", **keys), Schema())
        assert sent == {
            "prompt": "a red fox", "sampling_steps": 4, "width": 64, "height": 48,
            "go_fast": True, "output_format": "png",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("size", "ratio"), [((1024, 1024), "1:1"), ((1344, 768), "16:9"), ((640, 480), "4:3"), ((480, 640), "3:4")]
    )
    def test_a_size_becomes_the_nearest_ratio(self, size: tuple[int, int], ratio: str) -> None:
        """For models that know shapes and no sizes."""
        assert inputs.nearest(*size, ["1:1", "16:9", "9:16", "4:3", "3:4"]) == ratio


class TestWhatIsHeard:
    """What a prediction tells as it goes."""

    @pytest.mark.parametrize("streams", [False, True])
    async def test_steps_come_from_the_log_and_previews_from_the_outputs(self, streams: bool) -> None:
        """Through all the pictures of a call, with one total."""
        fake = FakeReplicate(token=TOKEN, streams=streams, intermediate=True, step_s=0.05)
        async with backend(fake) as made:
            model = cloud_model("replicate", model="some/flux", intermediate=True, paid=True)
            said = await collect(made, request(n=2), model, previews=Watching())
        steps = [one for one in said if isinstance(one, Step)]
        assert {one.total for one in steps} == {8}
        assert steps[-1].step == 8
        assert [one for one in said if isinstance(one, Preview)]
        assert [one.name for one in said if isinstance(one, Phase)][-1] == "sampling"

    async def test_a_stream_that_breaks_is_done_without(self) -> None:
        """The prediction is looked at instead."""
        fake = FakeReplicate(token=TOKEN, streams=True, step_s=0.05)
        async with backend(fake) as made:
            drawing = asyncio.create_task(collect(made, request(), FLUX))
            while not any(one.path.startswith("/stream/") for one in fake.requests):
                await asyncio.sleep(0.005)
            looked = len(fake.requests)
            fake.cut()
            assert outputs(await drawing)
        assert len(fake.asked("GET", fake.predictions[0].id)) > 2
        assert any("/v1/predictions/" in one.path for one in fake.requests[looked:])

    async def test_facts_are_the_time_it_ran_and_what_that_costs(self) -> None:
        """By the price that the model's file gives for a picture or a second."""
        for keys, cost in (({"price_per_image": 0.003}, 0.003), ({"price_per_s": 1000.0}, None), ({}, 0)):
            fake = FakeReplicate(token=TOKEN, step_s=0.01)
            async with backend(fake) as made:
                model = cloud_model("replicate", model="some/flux", **keys)
                (output,) = outputs(await collect(made, request(), model))
            ran_s = output.facts["predict_time_s"]
            assert output.facts["timings"] == {"sample": ran_s}
            assert 0.03 < ran_s < 5
            assert output.facts.get("cost", 0) == pytest.approx(ran_s * 1000 if cost is None else cost, rel=0.01)
            assert output.facts["prediction"] == fake.predictions[0].id

    async def test_one_picture_is_kept_of_several_that_are_no_previews(self) -> None:
        """And it is said."""
        fake = FakeReplicate(token=TOKEN, intermediate=True)
        async with backend(fake) as made:
            said = await collect(made, request(), FLUX)
        assert len(outputs(said)) == 1
        assert [one.code for one in said if isinstance(one, Notice)] == ["more_pictures"]

    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 60), st.integers(0, 50))))
    def test_steps_only_rise_whatever_a_log_says(self, bars: list[tuple[int, int, int]]) -> None:
        """Bars of other lengths, bars that begin again, bars of nonsense."""
        teller = Teller(Nobody(), n=4, steps=20, intermediate=False)
        said: list[Signal] = []
        for index, done, total in sorted(bars):
            said += teller.log(index, f"{50}%|██  | {max(done, 0)}/{total} [00:00<00:01]", whole=True)
        steps = [one for one in said if isinstance(one, Step)]
        assert [one.step for one in steps] == sorted({one.step for one in steps})
        assert len({one.total for one in steps}) <= 1
        assert all(1 <= one.step <= one.total for one in steps)


class TestRefusals:
    """Every answer that is not a good one."""

    @pytest.mark.parametrize(
        ("status", "body", "kind", "word"),
        [
            (401, {"title": "Unauthenticated", "detail": "no valid token"}, NotConfigured, "token"),
            (402, {"title": "Payment required", "detail": "Insufficient credit"}, NotConfigured, "Insufficient"),
            (403, {"detail": "forbidden"}, NotConfigured, "forbidden"),
            (404, {"detail": "could not be found"}, NotConfigured, "no such model"),
            (422, {"title": "Invalid version or not permitted", "detail": "The specified version does not exist"},
             NotConfigured, "version"),
            (422, {"title": "Input validation failed", "detail": "- input.seed: Invalid type"}, Rejected, "input.seed"),
            (422, {"detail": [{"loc": ["body", "input", "steps"], "msg": "99 is too much"}]}, Rejected, "input.steps"),
            (429, {"detail": "Request was throttled."}, RateLimited, "throttled"),
            (409, {"error": "At capacity - all prediction slots busy"}, RateLimited, "At capacity"),
            (408, {}, TimedOut, "gave up"),
            (504, {}, TimedOut, "gave up"),
            (502, {}, Unreachable, "not ready"),
            (503, {"error": "Setup has not finished"}, Unreachable, "Setup"),
            (500, {}, Crashed, "HTTP 500"),
            (307, {}, NotConfigured, "moved"),
            (400, {}, Rejected, "HTTP 400"),
        ],
    )  # fmt: skip
    def test_each_is_an_error_that_says_what_to_do(
        self, status: int, body: Any, kind: type[ImagenError], word: str
    ) -> None:
        """In the words of the service, as far as it has any."""
        client = Http(Address.of("http://127.0.0.1:9/v1"), "the service")
        error = errors.answered(client, httpx2.Response(status, json=body, request=httpx2.Request("POST", "http://x/")))
        assert type(error) is kind
        assert word in error.message
        assert error.hint

    @pytest.mark.parametrize(
        ("said", "logs", "kind"),
        [
            ("CUDA out of memory. Tried to allocate 2 GiB", "", OutOfMemory),
            ("it broke", "torch.OutOfMemoryError: …", OutOfMemory),
            ("NSFW content detected in all outputs", "", Rejected),
            ("The input or output was flagged as sensitive. (E005)", "", Rejected),
            ("Prediction interrupted; please retry (code: PA)", "", Crashed),
            (None, "", Crashed),
        ],
    )
    async def test_a_prediction_that_fails_is_not_made_again_by_itself(
        self, said: str | None, logs: str, kind: type[ImagenError]
    ) -> None:
        """Failed predictions may be paid for as well."""
        error = errors.failed("the service", "Mine", said, logs)
        assert type(error) is kind
        assert not error.retryable
        fake = FakeReplicate(token=TOKEN)
        fake.fail(said or "", logs)
        async with backend(fake) as made:
            with pytest.raises(kind):
                await collect(made, request(), FLUX)

    @pytest.mark.parametrize("in_body", [False, True])
    async def test_patience_is_given_for_as_long_as_it_is_asked_for(self, in_body: bool) -> None:
        """Accounts with little credit are told in the body only; more than the settings allow is an error."""
        fake = FakeReplicate(token=TOKEN)
        async with backend(fake) as made:
            fake.rate_limit(retry_after_s=0.05, in_body=in_body, times=2)
            assert outputs(await collect(made, request(), FLUX))
            fake.rate_limit(retry_after_s=30, in_body=in_body)
            said, error = await to_its_error(made, request(), FLUX)
            assert isinstance(error, RateLimited)
            assert error.retry_after_s == 30
            assert outputs(await collect(made, request(), FLUX, resume=handles(said)[-1]))
        assert len(fake.predictions) == 2

    async def test_a_token_that_is_not_taken_is_found_early_and_never_shown(self) -> None:
        """The error holds no part of it; without one nothing is sent at all."""
        fake = FakeReplicate(token="another")
        async with backend(fake) as made:
            for error in ((await made.check(FLUX))[-1].error, (await to_its_error(made, request(), FLUX))[1]):
                assert isinstance(error, NotConfigured)
                assert TOKEN not in json.dumps(error.as_dict())
        async with backend(fake, token="") as made:
            asked = len(fake.requests)
            with pytest.raises(NotConfigured, match="no token"):
                await collect(made, request(), FLUX)
            assert len(fake.requests) == asked

    async def test_inputs_that_the_model_does_not_have_are_found_early(self) -> None:
        """Before anybody pays to learn it."""
        fake = FakeReplicate(token=TOKEN)
        async with backend(fake) as made:
            fine = await made.check(FLUX)
            assert [check.ok for check in fine] == [True, True]
            wrong = await made.check(cloud_model("replicate", model="some/flux", extra={"megapixels": "1"}))
            assert isinstance(wrong[-1].error, BadConfig)
            assert "megapixels" in wrong[-1].error.message
            gone = await made.check(cloud_model("replicate", model="some/other"))
            assert isinstance(gone[-1].error, NotConfigured)


class TestContainer:
    """A container that Cog built."""

    MINE = cloud_model("replicate", intermediate=True)

    async def test_a_prediction_that_runs_is_joined_by_its_id(self) -> None:
        """Killed in the middle and resumed: drawn once, and the same picture."""
        fake = FakeCog(intermediate=True, step_s=0.05)
        async with container(fake) as made:
            whole = await collect(made, request(), self.MINE)
            said = await killed(made, fake, 3, model=self.MINE, n=1)
            again = await collect(made, request(), self.MINE, resume=handles(said)[-1])
        assert pixels(outputs(again)[0]) == pixels(outputs(whole)[0])
        assert len(fake.runs) == 2
        assert fake.cancelled == []

    async def test_a_stream_that_breaks_is_joined_again(self) -> None:
        """The prediction runs on, and nothing is shown twice."""
        fake = FakeCog(intermediate=True, step_s=0.1)
        async with container(fake) as made:
            drawing = asyncio.create_task(collect(made, request(), self.MINE, previews=Watching()))
            while not fake.runs:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.15)
            fake.cut()
            said = await drawing
        assert len(fake.runs) == 1
        steps = [one.step for one in said if isinstance(one, Step)]
        assert steps == sorted(set(steps))

    @pytest.mark.parametrize("streams", [True, False])
    async def test_leaving_stops_it(self, streams: bool) -> None:
        """Also a prediction that tells nothing while it runs."""
        fake = FakeCog(streams=streams, step_s=0.2)
        async with container(fake) as made:
            drawing = asyncio.create_task(collect(made, request(), self.MINE))
            while not fake.runs:
                await asyncio.sleep(0.01)
            drawing.cancel()
            await asyncio.gather(drawing, return_exceptions=True)
            await until_idle(fake)
        assert fake.cancelled == fake.runs

    async def test_a_place_that_is_taken_and_a_model_that_loads_are_waited_for(self) -> None:
        """There is one place, and somebody else may have it."""
        fake = FakeCog(setup_s=0.2)
        async with container(fake) as made:
            assert not (await made.check(self.MINE))[-1].ok
            said = await collect(made, request(), self.MINE)
            assert next(one.name for one in said if isinstance(one, Phase)) == "loading"
            fake.busy(0.2)
            assert outputs(await collect(made, request(), self.MINE))
            assert all(check.ok for check in await made.check(self.MINE))

    async def test_what_stands_before_a_container_is_waited_for_too(self) -> None:
        """A proxy says 503 until there is something behind it; longer than that is an error worth a retry."""
        fake = FakeCog()
        async with container(fake) as made:
            fake.answer("/health-check", 503, "starting", mime="text/plain", times=3)
            assert outputs(await collect(made, request(), self.MINE))
        async with container(fake, patience_s="0") as made:
            fake.answer("/health-check", 502, "", times=3)
            _, error = await to_its_error(made, request(), self.MINE)
            assert isinstance(error, Unreachable)

    async def test_one_that_costs_money_is_asked_once(self) -> None:
        """It cannot be asked what became of a prediction: a person decides about one that was interrupted."""
        paid = cloud_model("replicate", intermediate=True, paid=True)
        fake = FakeCog(intermediate=True, step_s=0.1)
        async with container(fake) as made:
            drawing = asyncio.create_task(to_its_error(made, request(), paid, previews=Watching()))
            while not fake.runs:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.15)
            fake.cut()
            said, error = await drawing
            assert type(error) is Rejected
            _, error = await to_its_error(made, request(), paid, resume=handles(said)[-1])
            assert type(error) is Rejected
            assert "cannot be known" in error.message
            assert len(fake.runs) == 1
            fake.step_s = 0
            assert outputs(await collect(made, request(), paid))
            assert len(fake.runs) == 2

    async def test_one_that_costs_money_and_is_busy_may_be_asked_again(self) -> None:
        """It says itself that nothing was begun."""
        paid = cloud_model("replicate", intermediate=True, paid=True)
        fake = FakeCog(intermediate=True)
        async with container(fake, patience_s="0") as made:
            fake.busy(0.5)
            said, error = await to_its_error(made, request(), paid)
            assert isinstance(error, RateLimited)
        async with container(fake) as made:
            assert outputs(await collect(made, request(), paid, resume=handles(said)[-1]))
        assert len(fake.runs) == 1

    async def test_the_switch_forbids_one_that_costs_money(self) -> None:
        """One's own is free."""
        fake = FakeCog()
        async with container(fake) as made:
            with pytest.raises(NotConfigured, match="IMAGEN_PAID_CALLS"):
                await collect(made, request(), cloud_model("replicate", paid=True))
            assert fake.runs == []
            assert outputs(await collect(made, request(), self.MINE))

    async def test_a_token_that_what_stands_before_it_wants_is_the_models_own(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Replicate's is not sent to a container, so it is not asked for."""
        monkeypatch.delenv("BOX_KEY", raising=False)
        fake = FakeCog()
        async with container(fake, token=TOKEN) as made:
            for keys, word in (({}, "`token_env: NAME_OF_A_VARIABLE`"), ({"token_env": "BOX_KEY"}, "BOX_KEY is not")):
                fake.answer("/health-check", 401, "", times=2)
                model = cloud_model("replicate", **keys)
                (check,) = await made.check(model)
                for error in (check.error, (await to_its_error(made, request(), model))[1]):
                    assert isinstance(error, NotConfigured)
                    assert "wants a token" in error.message
                    assert word in error.hint
                    assert "IMAGEN_REPLICATE_TOKEN" not in error.hint

    async def test_one_that_costs_money_needs_no_token(self) -> None:
        """`paid` says what a picture costs; a container has no keys."""
        async with container(FakeCog()) as made:
            paid = cloud_model("replicate", paid=True)
            assert all(check.ok for check in await made.check(paid))
            assert outputs(await collect(made, request(), paid))

    async def test_what_it_refuses_is_said_in_its_words(self) -> None:
        """Also that it is no such container."""
        fake = FakeCog(step_s=0.05)
        async with container(fake) as made:
            with pytest.raises(Rejected, match="greater than the maximum of 50"):
                await collect(made, request(steps=99), self.MINE)
            fake.fail("ValueError: no such style")
            with pytest.raises(Crashed, match="no such style"):
                await collect(made, request(), self.MINE)
            fake.answer("/health-check", 200, json.dumps({"status": "SETUP_FAILED"}))
            with pytest.raises(NotConfigured, match="SETUP_FAILED"):
                await collect(made, request(), self.MINE)
            fake.answer("/health-check", 200, "{}")
            with pytest.raises(NotConfigured, match="no container that Cog built"):
                await collect(made, request(), self.MINE)


async def killed(
    made: Replicate, fake: FakeReplicate | FakeCog, signals: int, *, model: Any = FLUX, n: int = 2
) -> list[Signal]:
    """What a call said until its process died: nothing that it does when it ends reaches the service."""
    said: list[Signal] = []
    async with aclosing(made.generate(request(n=n), model, Nobody())) as call:
        async for signal in call:
            said.append(signal)
            if len(said) == signals:
                break
        fake.shut()
    fake.open()
    return said


async def test_all_are_told_to_end_before_any_is_waited_for() -> None:
    """One that takes its time to end costs the others none of theirs, nor a worker that stops the seconds it has."""
    names = ["one", "two", "three"]
    told, seen = set[str](), set[str]()

    def answer(asked: httpx2.Request) -> httpx2.Response:
        *_, name = asked.url.path.removesuffix("/cancel").split("/")
        if asked.method == "POST":
            told.add(name)
            return httpx2.Response(200, json={})
        if len(told) < len(names):
            return httpx2.Response(200, json={"status": "processing"})
        seen.add(name)
        return httpx2.Response(200, json={"status": "canceled"})

    address = Address.of("https://api.example.com/v1")
    http = Http(address, "the service", token=TOKEN, transport=httpx2.MockTransport(answer))
    await Cloud(http=http, look_s=0.01).cancel(names)
    await http.aclose()
    assert seen == set(names)
