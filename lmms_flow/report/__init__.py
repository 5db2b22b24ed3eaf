"""What came out: arms read from lmms-eval's output, statistics, tables and figures."""
