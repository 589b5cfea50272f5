"""The headers by which proxies, tunnels and content networks mark what they forward.

A mark isn't believed, only noticed: who adds one can only lose a rule that is made for direct calls. So the patterns
may be wide; what they must not match is what programs send by themselves (CF-Access-Client-Id, Fly-Prefer-Region,
ngrok-skip-browser-warning, X-Amz-Date, traceparent).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

# Who the client was, and what it asked for, in the words of any vendor: names with such a part, wherever it stands.
_ANY_VENDOR = r"""
    (?!MAX_).*FORWARD.*                                  # Forwarded, X-Forwarded-For, X-Original-Forwarded-For
  | (.*_)?VIA                                            # Via, X-BlueCoat-Via
  | (.*_)?IP(V?[46])?                                    # X-Real-IP, True-Client-IP, CF-Connecting-IPv6
  | .*(CLIENT|SOCKET|REMOTE|REAL|PROXY|USER)_?IP(V?[46])?           # X-Azure-ClientIP, RemoteIP
  | (.*_)?(CLIENT|REMOTE|REAL|PEER|SOURCE|VIEWER|EXTERNAL)_(ADDR|ADDRESS|PORT|HOST)
  | (.*_)?ORIGINAL_(FOR|HOST|PROTO|SCHEME|METHOD|PATH|UR[IL])
  | X_(REWRITE_URL|SCHEME|URL_SCHEME|PROTO|REMOTE_USER) | FRONT_END_HTTPS | REMOTE_USER
"""
# What one vendor adds, beside those.
_VENDORS = r"""
    CF_(?!ACCESS_CLIENT_).* | CDN_.* | FASTLY_.* | CLOUDFRONT_.* | X_AMZ_CF_.* | X_AMZN_(TRACE_ID|OIDC_.*)
  | (X_)?AKAMAI_.* | (X_)?INCAP_.* | X_SUCURI_.* | X_AZURE_.* | X_ARR_.* | DISGUISED_HOST | X_APPENGINE_.*
  | X_CLOUD_TRACE_CONTEXT | X_VERCEL_.* | X_NF_.* | X_RAILWAY_.* | FLY_(REGION|REQUEST_ID) | TAILSCALE_.*
  | X_ENVOY_.* | X_KONG_.* | X_NGINX_PROXY | X_HAPROXY_.* | X_VARNISH | SURROGATE_CAPABILITY | X_FROM_WHERE
  | X_PROXY(_.*|USER_.*|MESH_.*) | (WL_)?PROXY_CLIENT_.* | EAGLEID | ALI_CDN_.*
"""
_LONGEST_REMEMBERED = 64
_MARK = re.compile(f"HTTP_(?:{_ANY_VENDOR}|{_VENDORS})", re.VERBOSE)


def is_forwarded(names: Iterable[str]) -> bool:
    """Tell whether a request was forwarded.

    Args:
        names: WSGI's names of what is known of it, headers as HTTP_X_REAL_IP.
    """
    return any(map(_is_mark, names))


def _is_mark(name: str) -> bool:
    # Clients choose the names, and what is remembered has to stay small.
    return _remembered(name) if len(name) <= _LONGEST_REMEMBERED else _MARK.fullmatch(name) is not None


@functools.lru_cache(maxsize=512)
def _remembered(name: str) -> bool:
    return _MARK.fullmatch(name) is not None
