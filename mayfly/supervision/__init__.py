"""The watchdog: starts, watches, replaces and reports on processes. Imports neither web nor anything that computes."""
