"""How a long measurement went on: judgments, latency, memory and work of the server, by window."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles
from types import TracebackType
from typing import Any, NamedTuple

import psutil

SAMPLE_EVERY_S = 5.0


class Sample(NamedTuple):
    """The server at one moment; times are of `time.perf_counter`, which processes share."""

    at: float
    rss_bytes: int
    cpu_s: float


@dataclass(frozen=True)
class Window:
    """Some minutes of a course."""

    from_s: float
    judgments_per_s: float
    ack_p50_ms: float | None
    ack_p95_ms: float | None
    server_rss_mb: float
    server_cpu_ms_per_judgment: float


class Watch:
    """Samples a server on a thread of its own, from `with` to its end."""

    def __init__(self, pid: int) -> None:
        self.samples: list[Sample] = []
        self._server = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            times = self._server.cpu_times()
            rss = self._server.memory_info().rss
            self.samples.append(Sample(time.perf_counter(), rss, times.user + times.system))
            if self._stop.wait(SAMPLE_EVERY_S):
                return


def windows(
    samples: Sequence[Sample],
    acknowledged_at_s: Sequence[float],
    ack_ms: Sequence[float],
    *,
    began: float,
    count: int,
) -> list[Window]:
    """The course in as many windows of equal length, from when the crowd `began`."""
    inside = [sample for sample in samples if sample.at >= began]
    length_s = (inside[-1].at - began) / count
    acked = list(zip(acknowledged_at_s, ack_ms, strict=True))
    found = []
    for number in range(count):
        start, end = number * length_s, (number + 1) * length_s
        seen = [s for s in inside if start <= s.at - began <= end]
        times = [ms for at, ms in acked if start <= at < end]
        worked_s = seen[-1].cpu_s - seen[0].cpu_s
        share = length_s / max(seen[-1].at - seen[0].at, 1e-9)
        found.append(
            Window(
                round(start, 1),
                round(len(times) / length_s, 2),
                _percentile(times, 50),
                _percentile(times, 95),
                round(sum(s.rss_bytes for s in seen) / len(seen) / 2**20, 1),
                round(worked_s * share * 1000 / max(1, len(times)), 2),
            )
        )
    return found


def summary(found: Sequence[Window], judgments: int) -> dict[str, Any]:
    """End against start. Memory is counted from the second window: the first one fills caches."""
    first, second, last = found[0], found[1], found[-1]
    grown_mb = last.server_rss_mb - second.server_rss_mb
    measured = judgments * (len(found) - 2) / len(found)
    return {
        "throughput_ratio_end": round(last.judgments_per_s / first.judgments_per_s, 3),
        "cpu_per_judgment_ratio_end": round(
            last.server_cpu_ms_per_judgment / first.server_cpu_ms_per_judgment, 3
        ),
        "rss_mb_per_100k_judgments": round(grown_mb * 100_000 / max(1.0, measured), 1),
    }


def _percentile(values: Sequence[float], p: int) -> float | None:
    """Linear between the two nearest; None when there are too few to say."""
    if len(values) < 2:
        return None
    return round(quantiles(values, n=100, method="inclusive")[p - 1], 2)
