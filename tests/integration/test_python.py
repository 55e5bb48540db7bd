"""The Python API as a program uses it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import imagen as api

ROOT = Path(__file__).parents[2]


def test_the_example_app_runs(imagen: Any) -> None:
    """The thirty lines in examples/ work as they stand."""
    run = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples/watch_a_fox.py", "previews"],
        cwd=imagen.here,
        env=imagen.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1].startswith("done: ")
    pictures = sorted((imagen.here / "previews").iterdir())
    assert len(pictures) == 4
    assert all(path.read_bytes().startswith(b"\xff\xd8") for path in pictures)


async def test_leaving_the_loop_cancels_the_job(tmp_path: Path) -> None:
    """Whoever breaks out of the loop does not go on paying for the picture."""
    async with api.open(home=tmp_path) as app:
        events = app.generate("a fox [slow:60]", model="mock", width=64, height=64)
        async for event in events:
            if isinstance(event, api.Progress):
                break
        await events.aclose()
        (job,) = await app.jobs()
        assert job.state is api.State.CANCELLED


async def test_a_match_over_the_events_sees_the_picture_form(tmp_path: Path) -> None:
    """Previews come as asked for, under either spelling, and the end brings the images."""
    async with api.open(home=tmp_path) as app:
        wishes: tuple[dict[str, Any], ...] = (
            {"preview": {"stride": 5}},
            {"preview": {"emitPreviews": True, "previewStride": 5}},
            {"emit_previews": True, "preview_stride": 5},
        )
        for wish in wishes:
            steps: list[int] = []
            images: tuple[api.StoredImage, ...] = ()
            async for event in app.generate("a fox [slow:0]", model="mock", width=64, height=64, **wish):
                match event:
                    case api.Preview(step=step, total=20, data=data):
                        assert data
                        steps.append(step)
                    case api.Completed():
                        images = event.images
                    case _:
                        pass
            assert steps
            assert set(steps) <= {5, 10, 15}
            assert [image.width for image in images] == [64]
