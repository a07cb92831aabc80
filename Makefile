# Every target makes .venv/ first (once). Only python3, make and coreutils are needed.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: help setup
help:
	@echo "make setup"

setup:
	@$(PYTHON) tools/setup_venv.py
