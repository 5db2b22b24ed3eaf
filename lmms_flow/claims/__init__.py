"""What papers say about where the answer flows, as predictions that any run can be held against."""
