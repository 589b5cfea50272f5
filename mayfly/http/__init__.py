"""The HTTP server, on waitress. It knows nothing of the application beyond what `mayfly.app` hands to it."""
