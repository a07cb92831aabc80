"""Training: from the same events, through the same absorb, to a model file that workers take over."""

import os

# TensorFlow reads these when it is first imported, from wherever that is: no lines about CPU features on the terminal,
# and one order of summation, so that a seed gives the same file.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# onnxruntime reports to its maker unless told not to before it is first loaded (stream/__init__.py says more).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
