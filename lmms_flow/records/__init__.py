"""What a run writes and the report reads: a record a sample, in a journal, under a key."""
