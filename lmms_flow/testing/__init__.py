"""The conformance suite: whether a wrapper, ours or yours, hands its model what the model's own processor would.

    from lmms_flow.testing import assert_conforms

    def test_my_wrapper():
        assert_conforms(MyFlow(pretrained="my/checkpoint", records="none"))

`lmms-flow verify --model my_flow` prints the same as a table.
"""

from .conformance import assert_conforms, conformance
from .findings import Finding

__all__ = ["Finding", "assert_conforms", "conformance"]
