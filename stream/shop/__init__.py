"""A simulated shop that closes the loop, and the replay of recorded logs."""
