"""A real Apache Kafka for development and tests: fetched once, started and stopped as a child process."""
