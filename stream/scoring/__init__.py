"""Scoring: a model file is verified, then moves each event's row on by one step. ONNX Runtime and numpy; no Kafka."""
