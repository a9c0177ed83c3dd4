"""How busy others kept the machine while something was measured."""

from __future__ import annotations

import time
from types import TracebackType

import psutil  # type: ignore[import-untyped]


def _busy_s() -> float:
    times = psutil.cpu_times()
    idle: float = times.idle + getattr(times, "iowait", 0.0)
    double: float = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times)) - idle - double


class OtherLoad:
    """A context; afterwards `share` is the part of all cores that other processes used."""

    share = 0.0

    def __enter__(self) -> OtherLoad:
        self._began = time.monotonic(), _busy_s(), time.process_time()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        began_s, busy_s, own_s = self._began
        elapsed_s = max(time.monotonic() - began_s, 1e-9)
        others_s = _busy_s() - busy_s - (time.process_time() - own_s)
        self.share = round(max(0.0, others_s) / elapsed_s / (psutil.cpu_count() or 1), 3)
