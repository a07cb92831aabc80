"""Making and judging the models that the workers run."""
