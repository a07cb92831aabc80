"""A campaign that gives buyers a coupon for every product that they look at, for tests of what holds it back."""

import json
from typing import Any

from stream.campaigns.control import compile_campaigns
from stream.core.campaign import CampaignSet


def campaign(**fields: Any) -> CampaignSet:
    """It alone, with these fields of its document besides."""
    document = {
        "id": "coupons",
        "name": "Coupons",
        "version": 1,
        "trigger": {"kinds": ["product_view"]},
        "arms": [{"id": "five", "kind": "coupon", "value_minor": 500}],
        "policy": {"kind": "frequency", "window": "30d", "more_than": 0, "arm": "five"},
        "valid_for": "1d",
        "currency": "EUR",
        **fields,
    }
    found, refused = compile_campaigns({document["id"]: json.dumps(document).encode()})
    assert refused == []
    return found
