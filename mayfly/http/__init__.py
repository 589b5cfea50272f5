"""The HTTP server, on waitress. It knows nothing of the application beyond what `app.py` hands to it."""
