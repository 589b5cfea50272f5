"""HTTP: who may call, which bodies are accepted, and how every failure becomes JSON."""
