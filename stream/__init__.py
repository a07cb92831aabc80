"""Offerstream: events in, discount offers out."""

import os

# onnxruntime reports to its maker unless told not to before it is first loaded (its Privacy.md; since 1.29 on Linux):
# names and hashes of models leave the machine, and every process keeps a database in the user's cache. Here, because
# whatever of ours is imported, this comes first. A test looks at what it leaves behind.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
