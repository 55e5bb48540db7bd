"""The signature of a message, as https://www.standardwebhooks.com has it."""

import base64
import hmac
from collections.abc import Sequence

from imagen.core.webhook import key_of


def signed(id: str, timestamp: int, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """The headers by which a receiver knows who sent it, when, and that it is whole; one signature for each secret."""
    told = f"{id}.{timestamp}.".encode() + body
    signatures = [base64.b64encode(hmac.digest(key_of(secret), told, "sha256")).decode() for secret in secrets]
    return {
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{one}" for one in signatures),
    }
