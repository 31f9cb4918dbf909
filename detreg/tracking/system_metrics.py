"""System metrics of a run, by MLflow's own monitors, written to the run's journal.

MLflow's thread asks the server for the run before each sample, and ends for good where there is no
answer; at its end it waits for the server.
"""

import contextlib
from collections.abc import Callable, Mapping

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor


class JournaledSystemMetrics(SystemMetricsMonitor):
    """Takes samples until `finish`, and gives them to `log(values, step)`."""

    def __init__(self, run_id: str, log: Callable[[Mapping[str, float], int], None]) -> None:
        super().__init__(run_id)
        self._log = log

    def monitor(self) -> None:
        """Take samples as the base class does, without a request to the server."""
        while True:
            for _ in range(self.samples_before_logging):
                self.collect_metrics()
                if self._shutdown_event.wait(self.sampling_interval):
                    return
            # A full disk stops the training, which says so.
            with contextlib.suppress(OSError):
                self.publish_metrics(self.aggregate_metrics())

    def publish_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log the means of the samples, under the names that the base class gives them."""
        prefix = self._metrics_prefix + (f"{self.node_id}/" if self.node_id else "")
        self._log({prefix + name: value for name, value in metrics.items()}, self._logging_step)
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()

    def finish(self) -> None:
        """Stop."""
        self._shutdown_event.set()
        if self._process is not None:
            self._process.join()
