"""What processes cost: CPU, memory and system calls, as /proc and strace tell."""

import os
import re
import signal
import subprocess
import tempfile

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Processes:
    """One or more processes with all their living descendants; figures are sums over them."""

    def __init__(self, *roots):
        self.roots = roots

    def pids(self):
        found, todo = [], list(self.roots)
        while todo:
            pid = todo.pop()
            found.append(pid)
            try:
                for thread in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{thread}/children") as file:
                        todo += map(int, file.read().split())
            except OSError:
                pass  # It has just ended.
        return found

    def cpu(self):
        """CPU seconds so far, in user and kernel mode, reaped children included."""
        ticks = 0
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/stat") as file:
                    fields = file.read().rsplit(")", 1)[1].split()
            except OSError:
                continue
            ticks += sum(map(int, fields[11:15]))
        return ticks / TICKS_PER_SECOND

    def resident(self):
        """Bytes of memory that are resident."""
        total = 0
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/status") as file:
                    line = re.search(r"^VmRSS:\s+(\d+)", file.read(), re.M)
            except OSError:
                continue
            total += int(line[1]) * 1024 if line else 0
        return total

    def trace_system_calls(self):
        """Begins to count system calls, which costs much time of the processes themselves; calling the answer ends that
        and answers the counts by name."""
        summary = tempfile.NamedTemporaryFile()
        pids = [word for pid in self.pids() for word in ("-p", str(pid))]
        tracer = subprocess.Popen(["strace", "-f", "-c", "-o", summary.name, *pids], stderr=subprocess.DEVNULL)

        def end():
            tracer.send_signal(signal.SIGINT)
            tracer.wait()
            with summary, open(summary.name) as file:
                rows = [line.split() for line in file]
            counted = [row for row in rows if len(row) >= 5 and row[0].replace(".", "").isdigit() and row[-1] != "total"]
            return {row[-1]: int(row[3]) for row in counted}

        return end
