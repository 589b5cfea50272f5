"""On a Ray cluster: `serve --on ray`, and `embed-file`. Nothing else imports ray, which is in requirements-ray.txt.

The web process and its watchdog are those of every mayfly, but that the web process has a driver, which is connected to
Ray. Its lanes ask replicas, which Ray Serve starts, replaces and counts; each hosts one model under a supervisor of its
own, so that what kills a model's process kills no replica. `embed-file` has Ray Data start and count such hosts.
"""
