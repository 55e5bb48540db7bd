"""Watch a picture form: every preview is written to a file, then the picture itself is named."""

import asyncio
import sys
from pathlib import Path

import imagen


async def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    async with imagen.open() as app:
        async for event in app.generate("a red fox in the snow", model="mock", seed=7, preview={"count": 4}):
            match event:
                case imagen.Started(request=request):
                    print(f"{request['model']} draws with seed {request['seed']}")
                case imagen.Preview(step=step, total=total, data=data):
                    (folder / f"step-{step:02}.jpg").write_bytes(data)
                    print(f"step {step} of {total}: {len(data)} bytes to look at")
                case imagen.Completed(images=images):
                    print(f"done: {images[0].url}")
                case imagen.Failed(error=error):
                    sys.exit(f"{error.message}\n{error.hint}")
                case _:
                    pass  # there are more kinds of events, and later versions may add some


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1] if len(sys.argv) > 1 else "previews")))
