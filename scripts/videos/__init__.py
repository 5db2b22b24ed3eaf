"""Makes about eighty small videos of every kind that is at hand, reads them, and writes the table of docs/videos.md."""
