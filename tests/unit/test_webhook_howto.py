"""What docs/howto/get-a-webhook.md tells receivers to do believes us, and nobody else."""

import base64
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagen.config import load_settings
from imagen.core.webhook import webhook_of
from imagen.surfaces.webhooks.signing import signed

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "get-a-webhook.md").read_text(encoding="utf-8")
SECRET, OTHER = ("whsec_" + base64.b64encode(letter * 32).decode() for letter in (b"k", b"o"))
BODY = b'{"type":"job.completed"}'


@pytest.fixture
def verified() -> Callable[[Any, bytes, str], Any]:
    """The function of the page, as somebody would paste it."""
    (block,) = re.findall(r"^```python verifier\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "get-a-webhook.md", "exec"), names)
    assert len(block.splitlines()) <= 24, "one look"
    function: Callable[[Any, bytes, str], Any] = names["verified"]
    return function


def headers(*, late_s: float = 0, id: str = "J", body: bytes = BODY, secrets: tuple[str, ...] = (SECRET,)) -> Any:
    return signed(id, int(time.time() - late_s), body, secrets)


def test_it_believes_us_once(verified: Callable[..., Any]) -> None:
    """The message the first time, None when the same comes again, and the next one again."""
    assert verified(headers(), BODY, SECRET) == json.loads(BODY)
    assert verified(headers(), BODY, SECRET) is None
    assert verified(headers(id="K"), BODY, SECRET) is not None


def test_it_believes_while_secrets_change(verified: Callable[..., Any]) -> None:
    """Two signatures, one of which it knows."""
    assert verified(headers(secrets=(OTHER, SECRET)), BODY, SECRET) is not None


@pytest.mark.parametrize(
    ("told", "body", "secret"),
    [  # made when the test runs, which may be long after it was collected
        (headers, BODY, OTHER),
        (headers, BODY + b" ", SECRET),
        (lambda: headers(id="K") | {"webhook-id": "J"}, BODY, SECRET),
        (lambda: headers(late_s=400), BODY, SECRET),
        (lambda: headers(late_s=-400), BODY, SECRET),
        (lambda: headers(late_s=400) | {"webhook-timestamp": str(int(time.time()))}, BODY, SECRET),
    ],
    ids=["another secret", "another body", "another id", "too old", "too new", "a moment that was not signed"],
)
def test_it_believes_nobody_else(
    verified: Callable[..., Any], told: Callable[[], Any], body: bytes, secret: str
) -> None:
    """ValueError for whatever was forged, changed or kept."""
    with pytest.raises(ValueError, match=r"too old|signed by somebody else"):
        verified(told(), body, secret)


def test_the_requests_of_the_page_are_understood() -> None:
    """Every webhook in its JSON can be read."""
    for block in re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        shape = json.loads(block)
        if "webhook" in shape:
            assert webhook_of(shape["webhook"]).events == ("failed", "cancelled")
        else:
            assert shape["type"] == "job.completed"


def test_the_settings_of_the_page_are_settings(tmp_path: Path) -> None:
    """No key is unknown, no value is wrong."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        (tmp_path / "config.yaml").write_text(block, encoding="utf-8")
        settings = load_settings(home=tmp_path, environ={})
        assert settings.problems == ()
        assert settings.webhooks.allow or settings.webhooks.secret
