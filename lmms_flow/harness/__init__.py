"""The glue to lmms-eval: plug-in, tasks, videos, groups in a prompt, request loop, journal."""
