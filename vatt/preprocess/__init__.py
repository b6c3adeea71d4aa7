"""Files into shards and an index."""

import os

# ONNX Runtime reports its use to Microsoft, from a thread that its import starts, and keeps an id
# in the home folder. Only this variable, set before, prevents it (1.31.1).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
