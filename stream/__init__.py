"""Offerstream: events in, discount offers out."""
