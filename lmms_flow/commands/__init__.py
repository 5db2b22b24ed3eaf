"""The commands of `lmms-flow`, a file each: its parser (`add`) and what it does (`run`)."""
