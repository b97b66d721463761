"""A plugin of pytest: what each test file cost, and how much of that was compiling."""

import os
from collections import Counter, defaultdict

import jax

# What JAX measures, and our column for it. Loading a program from the cache is no compilation.
DURATIONS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "trace",
    "/jax/core/compile/backend_compile_duration": "compile",
}
EVENTS = {"/jax/compilation_cache/cache_hits": "cached"}
COLUMNS = ("cpu", "compile", "trace", "programs", "cached")


class Compiles:
    """Costs by test file: of this process, and of the workers of pytest-xdist when they end."""

    def __init__(self, *, has_workers: bool) -> None:
        self._has_workers = has_workers
        self.costs: dict[str, Counter] = defaultdict(Counter)
        self._file = "(collection)"
        self._since = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._spent)
        jax.monitoring.register_event_listener(self._happened)

    def _spent(self, event: str, seconds: float, **_: object) -> None:
        if column := DURATIONS.get(event):
            self.costs[self._file][column] += seconds
            self.costs[self._file]["programs"] += column == "compile"

    def _happened(self, event: str, **_: object) -> None:
        if column := EVENTS.get(event):
            self.costs[self._file][column] += 1

    def _turn_to(self, file: str) -> None:
        """Charge this process's CPU time since the last turn, and begin with another file."""
        times = os.times()  # of this process, and of its children that have ended
        now = times.user + times.system
        if not self._has_workers:  # they say themselves what they cost
            now += times.children_user + times.children_system
        self.costs[self._file]["cpu"] += now - self._since
        self._file, self._since = file, now

    def pytest_runtest_logstart(self, location: tuple) -> None:
        if not self._has_workers:
            self._turn_to(location[0])

    def pytest_sessionfinish(self, session) -> None:
        self._turn_to("(end)")
        if hasattr(session.config, "workeroutput"):  # a worker: all that it says travels as text
            session.config.workeroutput["costs"] = {
                file: dict(costs) for file, costs in self.costs.items()
            }

    def pytest_testnodedown(self, node, error: object) -> None:
        for file, costs in getattr(node, "workeroutput", {}).get("costs", {}).items():
            self.costs[file].update(costs)

    def pytest_terminal_summary(self, terminalreporter, config) -> None:
        files = sorted(self.costs.items(), key=lambda item: -item[1]["cpu"])
        total = Counter()
        for _, costs in files:
            total.update(costs)
        shown = files if config.option.verbose > 0 else files[:15]
        terminalreporter.section("seconds of the processors, by file")
        terminalreporter.write_line("".join(f"{column:>9}" for column in COLUMNS) + "  file")
        for file, costs in [*shown, ("all", total)]:
            cells = (
                f"{costs[column]:9.{0 if column in ('programs', 'cached') else 1}f}"
                for column in COLUMNS
            )
            terminalreporter.write_line("".join(cells) + f"  {file}")
