"""All that knows Kafka, Faust or RocksDB: topics and values, batches in, rows kept, records out."""
