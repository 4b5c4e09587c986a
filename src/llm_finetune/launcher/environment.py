"""What the training operator and the downward API tell a worker, by environment variables."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from llm_finetune.errors import SettingsError
from llm_finetune.runtime.ranks import HIGHEST_PORT, WHOLE

PORT = 23456
ETCD = ("etcd", "etcd-v2")


@dataclass(frozen=True)
class WorkerIdentity:
    """This worker's place in the job.

    Attributes:
        name: the pod's.
        endpoint: host and port where worker-0 leads.
        least, most: workers that a round may have.
        max_restarts: failures that are followed by another round.
    """

    name: str
    endpoint: tuple[str, int]
    least: int
    most: int
    max_restarts: int

    @property
    def leads(self) -> bool:
        """Whether this is worker-0: the one whose own name is the endpoint's host."""
        host = self.endpoint[0]
        return self.name in (host, host.split(".")[0])

    @classmethod
    def from_environment(cls, workers: int, environment: Mapping[str, str] = os.environ) -> WorkerIdentity:
        """Reads PET_RDZV_ENDPOINT, PET_RDZV_BACKEND, PET_NNODES, PET_MAX_RESTARTS and POD_NAME.

        Args:
            workers: a job of one needs no operator and no endpoint.

        Raises:
            SettingsError: where they cannot be followed.
        """
        backend = environment.get("PET_RDZV_BACKEND", "c10d")
        if backend in ETCD:
            raise SettingsError(
                f"elasticPolicy.rdzvBackend: found {backend}, which needs a server beside the job and speaks "
                "a protocol that etcd has given up; write c10d, where worker-0 leads"
            )
        if backend != "c10d":
            raise SettingsError(f"elasticPolicy.rdzvBackend: found {backend!r}, expected c10d")
        name = environment.get("POD_NAME") or socket.gethostname()
        endpoint = environment.get("PET_RDZV_ENDPOINT", "")
        if not endpoint and workers > 1:
            raise SettingsError(
                f"environment: PET_RDZV_ENDPOINT is not set, but {workers} workers have to meet. The "
                "training operator sets it for a job with an elasticPolicy"
            )
        host, _, port = endpoint.rpartition(":") if ":" in endpoint else (endpoint, "", "")
        least, _, most = environment.get("PET_NNODES", str(workers)).partition(":")
        restarts = environment.get("PET_MAX_RESTARTS", "0")
        numbers = {
            "PET_RDZV_ENDPOINT": [port] if port else [],
            "PET_NNODES": [least, most] if most else [least],
            "PET_MAX_RESTARTS": [restarts],
        }
        for variable, texts in numbers.items():
            if not all(WHOLE.fullmatch(text) for text in texts):
                raise SettingsError(f"environment: {variable} is {environment[variable]!r}, expected numbers")
        place = cls(name, (host or name, int(port or PORT)), int(least), int(most or least), int(restarts))
        if not (0 < place.endpoint[1] <= HIGHEST_PORT and _is_a_name(place.endpoint[0])):
            raise SettingsError(
                f"environment: PET_RDZV_ENDPOINT is {endpoint!r}, expected worker-0's host and a port "
                f"from 1 to {HIGHEST_PORT}"
            )
        return place


def _is_a_name(host: str) -> bool:
    """Whether a host can be called so: else the resolver of Python fails in ways of its own."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return host.isprintable() and "\0" not in host
