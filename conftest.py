"""Settings for tests and notebooks alike: nothing here may reach for the network, and workers share the processor."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # two threads each on two cores take several times as long
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))
