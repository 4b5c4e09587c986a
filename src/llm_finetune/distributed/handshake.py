"""How two processes of a job prove to each other that they are, before anything that they say is believed.

Each sends a nonce, and then an HMAC by the job's secret over both nonces and the hello: nothing that was
overheard helps a stranger, on either side. What follows is sealed with a key of this one connection. Without
a secret a hello is taken as it is.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_finetune.distributed.connection import Line
from llm_finetune.runtime.json_object import parsed

SECONDS = 5.0  # for all of it
LONGEST_BYTES = 4096
NONCE_BYTES = 32
_NONCE = re.compile(rf"[0-9a-f]{{{2 * NONCE_BYTES}}}")


class UnprovenError(ConnectionError):
    """The other side is no process of this job, as far as it shows."""


@dataclass(frozen=True)
class _Meeting:
    """What both sides have seen by now."""

    secret: bytes
    purpose: str
    hello: str
    nonce: str

    def proof(self, who: str) -> bytes:
        signed = "\0".join((who, self.purpose, self.nonce, self.hello))
        return hmac.new(self.secret, signed.encode(), hashlib.sha256).hexdigest().encode()

    def check(self, who: str, proof: object) -> None:
        given = proof.encode() if isinstance(proof, str) else b""
        if not hmac.compare_digest(given, self.proof(who)):
            raise UnprovenError("it does not know this job's secret")


def introduce(
    line: Line, purpose: str, hello: Mapping[str, Any], secret: bytes | None, seconds: float = SECONDS
) -> None:
    """The calling side: says who this is.

    Args:
        purpose: what the connection is for; a proof for another purpose is none.

    Raises:
        UnprovenError: the peer does not know the secret.
        TimeoutError: there is no answer.
    """
    if secret is None:
        line.send(json.dumps({"hello": hello}))
        return
    words = json.dumps({"hello": hello, "nonce": secrets.token_hex(NONCE_BYTES)})
    line.send(words)
    answer = _heard(line, time.monotonic() + seconds)
    meeting = _Meeting(secret, purpose, words, _nonce(answer))
    meeting.check("called", answer.get("proof"))
    line.send(json.dumps({"proof": meeting.proof("calling").decode()}))
    line.seal(meeting.proof("seal"), answers=False)


def welcome(line: Line, purpose: str, secret: bytes | None, seconds: float = SECONDS) -> dict[str, Any]:
    """The called side: the caller's hello, once it is proven.

    Raises:
        UnprovenError: it says no hello, or does not know the secret.
        TimeoutError: it takes too long.
    """
    end = time.monotonic() + seconds
    words = _words(line, end)
    said = parsed(words)
    hello = said.get("hello")
    if not isinstance(hello, dict):
        raise UnprovenError("it says no hello that a process of this job says")
    if secret is None:
        return hello
    _nonce(said)
    meeting = _Meeting(secret, purpose, words, secrets.token_hex(NONCE_BYTES))
    line.send(json.dumps({"nonce": meeting.nonce, "proof": meeting.proof("called").decode()}))
    meeting.check("calling", _heard(line, end).get("proof"))
    line.seal(meeting.proof("seal"), answers=True)
    return hello


def _nonce(said: dict[str, Any]) -> str:
    nonce = said.get("nonce")
    if not (isinstance(nonce, str) and _NONCE.fullmatch(nonce)):
        raise UnprovenError("it does not prove that it knows this job's secret")
    return nonce


def _heard(line: Line, end: float) -> dict[str, Any]:
    return parsed(_words(line, end))


def _words(line: Line, end: float) -> str:
    words = line.receive(max(0.0, end - time.monotonic()), LONGEST_BYTES)
    if not words:
        raise UnprovenError("it hung up, or sent too much, before it identified itself")
    return words
