"""The designs of chapter 2 that break: a worker each."""

from mpim_lab.chapters.ch02_streams.naive import (
    AckFirstWorker,
    EndlessRetryWorker,
    NoAckWorker,
    NoClaimWorker,
)

NAIVE_WORKERS = {
    "no ack": NoAckWorker,
    "ack first": AckFirstWorker,
    "no claim": NoClaimWorker,
    "endless retry": EndlessRetryWorker,
}
