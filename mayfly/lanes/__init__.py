"""Lanes: the web process's way to the models, each behind one local socket."""
