"""Load: pgbench runs, one target after the other, round by round."""

import os
import re
import subprocess
import sys
import tempfile
import time

PROGRESS = re.compile(r"progress: ([\d.]+) s, ([\d.]+) tps")
PAUSE_SECONDS = 0.3
# How long clients may take to log in before the first second counts.
PATIENCE_SECONDS = 120


def say(text):
    print(text, file=sys.stderr, flush=True)


def rounds(options, targets, label, measure):
    """What `measure` answers for each target, round by round (A B C A B C): figures by target and name."""
    found = {target.name: {} for target in targets}
    for number in range(options.rounds):
        for target in targets:
            figures = measure(target)
            for name, value in figures.items():
                found[target.name].setdefault(name, []).append(value)
            shown = " ".join(f"{name}={value:.5g}" for name, value in figures.items() if value is not None)
            say(f"{label}, round {number + 1}, {target.name}: {shown}")
            time.sleep(PAUSE_SECONDS)
    return found


def pgbench(target, arguments, clients, seconds, sslmode="disable"):
    """Transactions per second, CPU per transaction in µs, and the latency's p50 and p99 in µs.

    CPU is taken between the first and the last report of progress, so that logins are not charged to transactions.
    """
    with tempfile.TemporaryDirectory() as folder:
        # Logging is sampled: with every transaction logged pgbench itself would be the busiest of all.
        command = ["pgbench", "-n", "-S", *arguments, "-c", str(clients), "-j", str(min(clients, 2)), "-T", str(seconds),
                   "-P", "1", "-l", "--sampling-rate=0.1", "--log-prefix", os.path.join(folder, "log")]
        process = subprocess.Popen(command, env=target.environment(sslmode), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True)
        samples, said = [], []
        for line in process.stderr:
            if progress := PROGRESS.match(line):
                cpu = target.processes.cpu() if target.processes else None
                samples.append((float(progress[1]), float(progress[2]), cpu))
            else:
                said.append(line)
        output = process.stdout.read()
        if process.wait(PATIENCE_SECONDS) != 0 or "number of failed transactions: 0 " not in output:
            raise SystemExit(f"pgbench through {target.name}: {''.join(said)[-2000:]}")
        latencies = []
        for name in os.listdir(folder):
            with open(os.path.join(folder, name)) as file:
                latencies += [int(line.split()[2]) for line in file]
    latencies.sort()
    done = sum(after[1] * (after[0] - before[0]) for before, after in zip(samples, samples[1:]))
    span = samples[-1][0] - samples[0][0]
    at = lambda share: latencies[min(len(latencies) - 1, int(len(latencies) * share))]
    return {
        "tps": done / span,
        "cpu": (samples[-1][2] - samples[0][2]) * 1e6 / done if target.processes else None,
        "p50": at(0.5),
        "p99": at(0.99),
    }
