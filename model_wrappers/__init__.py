"""The models that lmms-flow registers with lmms-eval, one file a family; installed as `lmms_flow.model_wrappers`."""

from lmms_flow.checkout import check_whole

check_whole(__file__)
