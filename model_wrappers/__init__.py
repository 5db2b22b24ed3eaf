"""The models that lmms-flow registers with lmms-eval, one file a family; installed as `lmms_flow.model_wrappers`."""
