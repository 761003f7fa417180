"""DOOR: functions in supervised child processes, and other programs; nothing outlives its call."""
