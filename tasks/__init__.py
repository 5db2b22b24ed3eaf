"""The tasks that lmms-flow brings, one folder a benchmark; installed as `lmms_flow.tasks`."""

from lmms_flow.checkout import check_whole

check_whole(__file__)
