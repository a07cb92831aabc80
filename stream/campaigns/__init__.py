"""Campaign documents: their form, what is wrong with one, what the core makes of it, where it is published."""
