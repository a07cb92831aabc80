"""The pure core: events, rows, windows, absorb, decisions. numpy and the standard library only, no I/O, no clock."""
