"""Lanes: one model behind one local socket; framing, the calling side and the serving side."""
