"""Ollama's API: its routes, in the forms that its clients know, translated to the calls that all other routes make."""
