"""Engines: what computes. `backends` describes them, `choose` loads one; the rest is of one engine or another."""
