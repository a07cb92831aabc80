"""Builders of networks, one short file each; `BUILDERS` in `training.models.registry` names them."""
