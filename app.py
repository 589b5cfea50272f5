"""The web process without the watchdog: `python app.py` loads the models in this one process and serves until Ctrl-C.

`app:create_app` is a factory for other WSGI servers. See mayfly/app.py.
"""

from mayfly.app import create_app, run

__all__ = ["create_app"]

if __name__ == "__main__":
    run()
