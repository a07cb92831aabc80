"""Training: from the same events, through the same absorb, to a model file that workers take over."""

import stream as stream  # first of all: keeps onnxruntime from reporting what is loaded
