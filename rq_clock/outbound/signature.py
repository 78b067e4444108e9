"""The signature of a web call, as Standard Webhooks describes it. Pure.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from datetime import datetime


def signature_headers(key: bytes, id: str, at: datetime, body: bytes) -> dict[str, str]:
    """Return the headers that identify a call; with a key, they sign it."""
    stamp = str(int(at.timestamp()))
    headers = {"webhook-id": id, "webhook-timestamp": stamp}
    if key:
        signed = hmac.digest(key, f"{id}.{stamp}.".encode() + body, "sha256")
        headers["webhook-signature"] = f"v1,{b64encode(signed).decode()}"
    return headers
