"""What a video library writes while it reads is a complaint where it tells of damage, and only then."""

from __future__ import annotations

import subprocess
import sys

import pytest

COLLECTS = """
import os, sys
from lmms_flow.inputs.complaints import Complaints
complaints = Complaints()
os.write(2, b"error of the file before\\n")
complaints.forget()
os.write(2, sys.argv[1].encode())
print(complaints.of_damage(), complaints.of_damage(), sep="|")
"""


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("", ""),
        ("\n \n", ""),
        ("this file was made with love\n", ""),
        ("[h264 @ 0x55d] error while decoding MB 3 4\n", "[h264] error while decoding MB 3 4"),
        ("made with love\r[h264 @ 0x55d] concealing 40 errors\n", "[h264] concealing 40 errors"),
        ("Application provided invalid timestamps\nTruncated packet\nmore errors\n", "Truncated packet"),
        ("[swscaler @ 0x1] error of no weight\n", ""),
    ],
)
def test_the_first_line_that_tells_of_damage(written: str, told: str) -> None:
    command = [sys.executable, "-c", COLLECTS, written]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{told}|\n"
