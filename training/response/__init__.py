"""How users respond to offers, learned from what a campaign explored."""
