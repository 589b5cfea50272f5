"""Every difference between operating systems, in one place.

Linux has everything. macOS has no parent-death signal and no pidfd; Windows has neither, nor Unix sockets that
Python can use, nor fork. There, the same promises are kept by slower means.
"""
