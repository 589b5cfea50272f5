"""llama.cpp's own HTTP server, as the package xllamacpp builds it.

    python llama_cpp_server.py MODEL.gguf PORT THREADS          for embeddings
    python llama_cpp_server.py MODEL.gguf PORT THREADS N_CTX    for completions
"""

from __future__ import annotations

import signal
import sys

import xllamacpp

model, port, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
params = xllamacpp.CommonParams()
params.model.path = model
params.hostnames, params.port = ["127.0.0.1"], port
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
if len(sys.argv) > 4:
    # 4 sequences side by side, each with the whole window.
    params.n_parallel, params.n_ctx = 4, 4 * int(sys.argv[4])
else:
    # 8 sequences side by side, each with the model's window. A call's texts are computed in one batch if they fit.
    params.embedding = True
    params.n_parallel, params.n_ctx = 8, 8 * 256
    params.n_batch = params.n_ubatch = 2048
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
signal.pause()
