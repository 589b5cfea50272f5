"""`python -m mayfly.on_ray`: the driver. It is a module of its own, since Ray takes what is in `__main__` elsewhere."""

from mayfly.on_ray.driver import main

main()
