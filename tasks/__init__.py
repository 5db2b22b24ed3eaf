"""The tasks that lmms-flow brings, one folder a benchmark; installed as `lmms_flow.tasks`."""
