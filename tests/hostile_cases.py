"""Requests that nobody friendly sends: what each is, how it is made, and how it is refused."""

import gzip
from collections.abc import Callable
from typing import Any

from tests.hostile_kit import Target

JOBS = "/v1/jobs"

Case = tuple[str, Callable[[Target], bytes], int, str]


def head(target: Target, *lines: str | bytes, first: str = "POST /v1/jobs HTTP/1.1") -> bytes:
    """A head line by line, as no proper client would send it."""
    own = [first, f"Host: {target.here}", f"Authorization: Bearer {target.keys['alice']}"]
    return b"\r\n".join(line if isinstance(line, bytes) else line.encode("latin-1") for line in (*own, *lines))


def raw(*lines: str | bytes, first: str = "POST /v1/jobs HTTP/1.1", body: bytes = b"") -> Callable[[Target], bytes]:
    return lambda target: head(target, *lines, first=first) + b"\r\n\r\n" + body


def path(address: str, method: str = "GET", key: str | None = "alice") -> Callable[[Target], bytes]:
    return lambda target: target.request(method, address.format(t=target), key=key)


def lines(*more: str, method: str = "GET", address: str = JOBS, **options: Any) -> Callable[[Target], bytes]:
    return lambda target: target.request(
        method, address.format(t=target), None, *(line.format(t=target) for line in more), **options
    )


def job(
    body: Any = None, *more: str, kind: str | None = "application/json", **fields: Any
) -> Callable[[Target], bytes]:
    told = {"prompt": "a red fox", **fields} if body is None else body
    return lambda target: target.request("POST", JOBS, told, *more, kind=kind)


def series(**fields: Any) -> Callable[[Target], bytes]:
    return lambda target: target.request("POST", "/v1/series", fields)


def from_site(origin: str, method: str = "POST") -> Callable[[Target], bytes]:
    body = {"prompt": "x"} if method == "POST" else None
    return lambda target: target.request(method, JOBS, body, f"Origin: {origin.format(t=target)}")


JSON = "Content-Type: application/json"
CHUNKED = "Transfer-Encoding: chunked"

NOT_HTTP: list[Case] = [
    ("a TLS hello", lambda t: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), 400, "request_error"),
    ("no path", lambda t: b"GET\r\n\r\n", 400, "request_error"),
    ("a version that is not", lambda t: b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 400, "request_error"),
    ("an unknown method", raw(first="FROB /v1/jobs HTTP/1.1"), 400, "request_error"),
    ("the method of a proxy", raw(first="CONNECT evil.example:443 HTTP/1.1"), 400, "request_error"),
    ("a NUL in the address", lambda t: b"GET /v1/jo\x00bs HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request_error"),
    ("a NUL in a header", raw(b"X-A: a\x00b", first="GET /v1/jobs HTTP/1.1"), 400, "request_error"),
    ("a header name with a blank", raw("X A: b", first="GET /v1/jobs HTTP/1.1"), 400, "request_error"),
    ("a header without a colon", raw("nonsense", first="GET /v1/jobs HTTP/1.1"), 400, "request_error"),
    ("a lone line end in a header", raw(b"X-A: a\rX-B: c", first="GET /v1/jobs HTTP/1.1"), 400, "request_error"),
    ("a blank before the colon", raw("Content-Length : 5", JSON, body=b"12345"), 400, "request_error"),
    ("two lengths", raw("Content-Length: 2", "Content-Length: 3", JSON, body=b"{}x"), 400, "request_error"),
    ("two lengths in one", raw("Content-Length: 2, 2", JSON, body=b"{}"), 400, "request_error"),
    ("a negative length", raw("Content-Length: -1", JSON), 400, "request_error"),
    ("a length with a sign", raw("Content-Length: +2", JSON, body=b"{}"), 400, "request_error"),
    ("a length in base 16", raw("Content-Length: 0x2", JSON, body=b"{}"), 400, "request_error"),
    ("a length beyond 64 bits", raw("Content-Length: 99999999999999999999999", JSON), 400, "request_error"),
    ("a length and chunks", raw("Content-Length: 5", CHUNKED, JSON, body=b"0\r\n\r\n"), 400, "request_error"),
    ("chunks and a length", raw(CHUNKED, "Content-Length: 5", JSON, body=b"0\r\n\r\n"), 400, "request_error"),
    ("an unknown coding", raw("Transfer-Encoding: xchunked", JSON, body=b"0\r\n\r\n"), 400, "request_error"),
    ("chunks not last", raw("Transfer-Encoding: chunked, identity", JSON, body=b"0\r\n\r\n"), 400, "request_error"),
    ("chunks twice", raw(CHUNKED, CHUNKED, JSON, body=b"0\r\n\r\n"), 400, "request_error"),
    ("a chunk without a size", raw(CHUNKED, JSON, body=b"zz\r\n{}\r\n0\r\n\r\n"), 400, "request_error"),
    ("a chunk beyond 64 bits", raw(CHUNKED, JSON, body=b"f" * 20 + b"\r\n{}\r\n"), 400, "request_error"),
    ("a chunk that is too long", raw(CHUNKED, JSON, body=b"2\r\n{}{}\r\n0\r\n\r\n"), 400, "request_error"),
]

TOO_MUCH: list[Case] = [
    ("a long address", path("/v1/jobs/" + "a" * 10_000), 414, "address_too_long"),
    ("a long query", path("/v1/jobs?q=" + "a" * 10_000), 414, "address_too_long"),
    ("many headers", lines(*(f"X-{n}: 1" for n in range(200))), 431, "head_too_large"),
    ("a header without an end", raw(b"X: " + b"a" * 500_000, first="GET / HTTP/1.1"), 431, "head_too_large"),
    ("an address without an end", lambda t: b"GET /" + b"a" * 500_000, 431, "head_too_large"),
    ("a body announced too large", raw("Content-Length: 2000000", JSON), 413, "body_too_large"),
    ("a body of terabytes", raw("Content-Length: 9999999999999", JSON), 413, "body_too_large"),
    ("a body too large on a GET", raw("Content-Length: 2000000", first="GET /v1/jobs HTTP/1.1"), 413, "body_too_large"),
    (
        "a body too large in chunks",
        raw(CHUNKED, JSON, body=b"".join(b"8000\r\n" + b" " * 0x8000 + b"\r\n" for _ in range(40)) + b"0\r\n\r\n"),
        413,
        "body_too_large",
    ),
    ("too large, and asks first", raw("Content-Length: 2000000", JSON, "Expect: 100-continue"), 413, "body_too_large"),
    ("a long prompt", job(prompt="a" * 30_000), 400, ""),
    ("a long negative prompt", job(negative="a" * 30_000), 400, ""),
    ("a side too long", job(width=9_000, height=64), 422, "unsupported"),
    ("too many pixels", job(width=8_000, height=8_000), 422, "unsupported"),
    ("too many steps", job(steps=501), 400, "too_large"),
    ("too many pictures", job(n=17), 400, "too_large"),
    ("too many cells", series(prompt="a", models=["mock"], seeds=list(range(101))), 400, "too_large"),
    ("a series of steps too many", series(prompt="a", models=["mock"], steps=501), 400, "too_large"),
    ("a page too long", path("/v1/jobs?limit=100000"), 400, "request_error"),
]

ADDRESSES: list[Case] = [
    (f"the path {address}", path(address), status, code)
    for address, status, code in (
        ("/v1/images/../../../etc/passwd", 404, "not_found"),
        ("/v1/images/%2e%2e/%2e%2e/etc/passwd", 404, "not_found"),
        ("/v1/images/..%2f..%2fetc%2fpasswd", 404, "not_found"),
        ("/v1/images/%2E%2E%2F%2E%2E%2Fimagen.db", 404, "not_found"),
        ("/v1/images/..%5c..%5cimagen.db", 404, "not_found"),
        ("/v1/images/..\\..\\imagen.db", 404, "not_found"),
        ("/v1/images/%c0%ae%c0%ae/imagen.db", 404, "not_found"),
        ("/v1/images/%ff", 404, "not_found"),
        ("/v1/images/a%00.png", 404, "not_found"),
        ("/v1/jobs/%0d%0aSet-Cookie:%20a=b", 404, "not_found"),
        ("/v1/jobs/%1b%5b2J", 404, "not_found"),
        ("/v1/images/%252e%252e%252fimagen.db", 404, "unknown_image"),
        ("/v1/images/....//....//imagen.db", 404, "not_found"),
        ("//etc/passwd", 404, "not_found"),
        ("/.env", 404, "not_found"),
        ("/imagen.db", 404, "not_found"),
        ("/v1/jobs/' OR 1=1 --".replace(" ", "%20"), 404, "unknown_job"),
        ("/v1/jobs/%25", 404, "unknown_job"),
        ("/v1/jobs?limit=0", 400, "request_error"),
        ("/v1/jobs?limit=ten", 400, "request_error"),
        ("/v1/jobs?limit=1&limit=2", 400, "request_error"),
        ("/v1/jobs?state=asleep", 400, "request_error"),
        ("/v1/jobs?owner=bob", 400, "request_error"),
        ("/v1/jobs?q=%00", 400, "request_error"),
        ("/v1/images/{t.image}?w=-1", 400, "request_error"),
        ("/v1/images/{t.image}?w=1e9", 400, "request_error"),
    )
]

METHODS: list[Case] = [
    ("PUT", path(JOBS, "PUT"), 405, "method_not_allowed"),
    ("PATCH", path(JOBS, "PATCH"), 405, "method_not_allowed"),
    ("TRACE", path(JOBS, "TRACE"), 405, "method_not_allowed"),
    ("OPTIONS", path(JOBS, "OPTIONS"), 405, "method_not_allowed"),
    ("DELETE of the list", path(JOBS, "DELETE"), 405, "method_not_allowed"),
    ("POST to the health", path("/healthz", "POST"), 405, "method_not_allowed"),
    ("a body and another protocol", job(None, "Connection: Upgrade", "Upgrade: h2c"), 400, "request_error"),
    ("a WebSocket", lines("Connection: Upgrade", "Upgrade: websocket", address="/v1/ws"), 404, "not_found"),
]

STRANGERS: list[Case] = [
    ("no key", lines(key=None), 401, "unauthorized"),
    ("a key of nobody", lines(key="imagen_" + "A" * 43), 401, "unauthorized"),
    ("an empty key", lines(key=""), 401, "unauthorized"),
    ("a key cut short", lambda t: t.request(key=t.keys["alice"][:-1]), 401, "unauthorized"),
    ("a key in capitals", lambda t: t.request(key=t.keys["alice"].upper()), 401, "unauthorized"),
    ("a key of a megabyte nearly", lines(key="A" * 50_000), 401, "unauthorized"),
    ("a key that is SQL", lines(key="' OR '1'='1"), 401, "unauthorized"),
    ("the name in place of the key", lines("X-Api-Key: alice", key=None), 401, "unauthorized"),
    ("Basic with a wrong password", lines("Authorization: Basic YWxpY2U6YWxpY2U=", key=None), 401, "unauthorized"),
    ("Basic that cannot be read", lines("Authorization: Basic %%%", key=None), 401, "unauthorized"),
    ("an unknown scheme", lines("Authorization: Digest a=b", key=None), 401, "unauthorized"),
    ("two keys", lines("Authorization: Bearer x"), 400, "request_error"),
    (
        "a key in the address",
        lambda t: t.request("GET", f"{JOBS}?key={t.keys['alice']}", key=None),
        401,
        "unauthorized",
    ),
    ("past an open page", path("/docs/../v1/jobs", key=None), 404, "not_found"),
    ("past an open page, encoded", path("/docs/%2e%2e/v1/jobs", key=None), 404, "not_found"),
    ("past an open page, with a semicolon", path("/imagine/..;/v1/jobs", key=None), 404, "not_found"),
    ("a path nobody has, without a key", path("/admin", key=None), 401, "unauthorized"),
    ("a stream without a key", path("/v1/events", key=None), 401, "unauthorized"),
    ("the numbers without a key", path("/metrics", key=None), 401, "unauthorized"),
    ("the numbers of everybody", path("/metrics"), 403, "forbidden"),
    ("before the others", job(priority=1), 403, "forbidden"),
]

NOT_YOURS: list[Case] = [
    (f"another key's {method} {address}", path(address, method), 404, code)
    for method, address, code in (
        ("GET", "/v1/jobs/{t.job}", "unknown_job"),
        ("GET", "/v1/jobs/{t.job}/events", "unknown_job"),
        ("GET", "/v1/jobs/{t.job}/preview", "unknown_job"),
        ("POST", "/v1/jobs/{t.job}/cancel", "unknown_job"),
        ("POST", "/v1/jobs/{t.job}/retry", "unknown_job"),
        ("DELETE", "/v1/jobs/{t.job}", "unknown_job"),
        ("GET", "/v1/images/{t.image}", "unknown_image"),
        ("GET", "/v1/images/{t.image}?w=64", "unknown_image"),
        ("DELETE", "/v1/images/{t.image}", "unknown_image"),
        ("GET", "/v1/series/{t.series}", "unknown_series"),
        ("GET", "/v1/series/{t.series}/events", "unknown_series"),
        ("GET", "/v1/series/{t.series}/sheet.png", "unknown_series"),
        ("GET", "/v1/series/{t.series}/sidecar.json", "unknown_series"),
        ("POST", "/v1/series/{t.series}/cancel", "unknown_series"),
        ("POST", "/v1/series/{t.series}/retry", "unknown_series"),
    )
] + [
    ("a beginning of another key's id", lambda t: t.request("GET", f"/v1/jobs/{t.job[:25]}"), 404, "unknown_job"),
    (
        "models for another key's series",
        lambda t: t.request("POST", f"/v1/series/{t.series}/models", {"models": ["mock-warm"]}),
        404,
        "unknown_series",
    ),
]

OTHER_SITES: list[Case] = [
    ("no name", lambda t: b"GET /v1/jobs HTTP/1.1\r\n\r\n", 400, "request_error"),
    ("an empty name", lambda t: b"GET /v1/jobs HTTP/1.1\r\nHost: \r\n\r\n", 400, "request_error"),
    ("two names", lines("Host: evil.example"), 400, "request_error"),
    *(
        (f"the name {name}", lines(host=name), 421, "unknown_host")
        for name in (
            "evil.example",
            "evil.example:8450",
            "127.0.0.1.evil.example",
            "localhost.evil.example:8450",
            "evil.example@127.0.0.1",
            "127.0.0.1:8450@evil.example",
            "2130706433",
            "0x7f000001",
            "0.0.0.0",
            "192.168.1.1:8450",
            "[::]",
        )
    ),
    *(
        (f"a page of {origin}", from_site(origin), 403, "forbidden")
        for origin in (
            "https://evil.example",
            "http://localhost:3000",
            "http://{t.host}:1",
            "http://{t.here}.evil.example",
            "http://evil.example#{t.here}",
            "http://evil.example\\@{t.here}",
            "http://{t.here}@evil.example",
            "ftp://{t.here}",
            "file://",
            "null",
            "",
        )
    ),
    ("a page that reads", from_site("https://evil.example", "GET"), 403, "forbidden"),
    ("a page that asks what it may", from_site("https://evil.example", "OPTIONS"), 403, "forbidden"),
    ("two origins", lines("Origin: http://{t.here}", "Origin: https://evil.example"), 400, "request_error"),
    ("a picture in a page of another site", lines("Sec-Fetch-Site: cross-site"), 403, "forbidden"),
    ("a page on another port", lines("Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: no-cors"), 403, "forbidden"),
    (
        "a frame in another page",
        lines("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"),
        403,
        "forbidden",
    ),
    (
        "a form of another page",
        lines("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", method="POST"),
        403,
        "forbidden",
    ),
    (
        "a link that opens a stream",
        lines(
            "Sec-Fetch-Site: cross-site",
            "Sec-Fetch-Mode: navigate",
            "Sec-Fetch-Dest: document",
            address="/v1/events",
        ),
        403,
        "forbidden",
    ),
    *(
        (f"a body of {kind}", job(kind=kind), 415, "unsupported_media_type")
        for kind in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/jsonx",
            "text/plain; application/json",
            None,
        )
    ),
]

BODIES: list[Case] = [
    (f"the body {body[:40]!r}", job(body), 400, "request_error")
    for body in (
        b"{",
        b"",
        b"null",
        b"[]",
        b'"a red fox"',
        b"{} {}",
        b"{'prompt': 'a'}",
        b'{"prompt": "a",}',
        b'{"prompt": "a"}\x00',
        b"[" * 200_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b'{"prompt": "a", "options": ' + b"[" * 60 + b"]" * 60 + b"}",
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": "a\xc0\xaf"}',
        '{"prompt": "a"}'.encode("utf-16"),
        b'{"prompt": "a\x00b"}',
        rb'{"prompt": "a\u0000b"}',
        rb'{"prompt": "a\ud800b"}',
        rb'{"prompt": "a", "negative": "\udfff"}',
        rb'{"prompt": "a", "options": {"\ud800": 1}}',
        rb'{"prompt": "a", "options": {"slow": "\u0000"}}',
        b'{"prompt": "a", "guidance": NaN}',
        b'{"prompt": "a", "guidance": -Infinity}',
        b'{"prompt": "a", "guidance": 1e400}',
        b'{"prompt": "a", "guidance": 101}',
        b'{"prompt": "a", "seed": 9223372036854775808}',
        b'{"prompt": "a", "seed": ' + b"9" * 5_000 + b"}",
        b'{"prompt": "a", "seed": -1}',
        b'{"prompt": "a", "seed": 1.5}',
        b'{"prompt": "a", "seed": "7"}',
        b'{"prompt": "a", "width": 0}',
        b'{"prompt": "a", "width": true}',
        b'{"prompt": "a", "width": null, "height": []}',
        b'{"prompt": "a", "steps": -4}',
        b'{"prompt": "a", "n": 0}',
        b'{"prompt": "a", "priority": 101}',
        b'{"prompt": ["a"]}',
        b'{"prompt": {"$ne": ""}}',
        b'{"prompt": " \\n "}',
        b'{"model": "mock"}',
        b'{"prompt": "a", "model": 1}',
        b'{"prompt": "a", "options": "slow=0"}',
        b'{"prompt": "a", "options": {"no_such": 1}}',
        b'{"prompt": "a", "options": {"slow": 1e308}}',
        b'{"prompt": "a", "promptt": "b"}',
        b'{"prompt": "a", "owner": "bob"}',
        b'{"prompt": "a", "id": "x"}',
        b'{"prompt": "a", "state": "completed"}',
        b'{"prompt": "a", "__proto__": {}}',
        b'{"prompt": "a", "preview": {"count": 1000000}}',
        b'{"prompt": "a", "preview": {"path": "/etc/passwd"}}',
        b'{"prompt": "a", "preview": {"count": 3, "stride": 2}}',
    )
] + [
    ("no body", path(JOBS, "POST"), 400, "request_error"),
    (
        "a compressed body",
        job(gzip.compress(b'{"prompt": "a"}'), "Content-Encoding: gzip"),
        415,
        "unsupported_media_type",
    ),
    ("a bomb", job(gzip.compress(b" " * 10_000_000), "Content-Encoding: gzip"), 415, "unsupported_media_type"),
    ("a compressed body that hides it", job(gzip.compress(b'{"prompt": "a"}')), 400, "request_error"),
    ("a model that is a path", job(model="../../../etc/passwd"), 404, "unknown_model"),
    ("a model that is nobody's", job(model="${prompt}"), 404, "unknown_model"),
    ("a size no model draws", job(width=5, height=5), 422, "unsupported"),
    ("a message to an inner address", job(webhook="http://169.254.169.254/latest"), 403, "forbidden"),
    ("a message with a user in its address", job(webhook="http://a:b@hook.example/"), 400, "request_error"),
    ("a message with a line in its address", job(webhook="http://hook.example/\r\nHost: x"), 400, "request_error"),
    ("a series without prompts", series(prompts=[], models=["mock"]), 400, "request_error"),
    ("a series of unknown models", series(prompt="a", models=["mock", "nobody"]), 404, "unknown_model"),
    ("an idempotency key with blanks only", job(None, "Idempotency-Key:  "), 400, "request_error"),
    ("a long idempotency key", job(None, f"Idempotency-Key: {'k' * 300}"), 400, "request_error"),
    ("two idempotency keys", job(None, "Idempotency-Key: a", "Idempotency-Key: b"), 400, "request_error"),
    ("an idempotency key that is not ASCII", job(None, "Idempotency-Key: \xe9"), 400, "request_error"),
]

CASES = [*NOT_HTTP, *TOO_MUCH, *ADDRESSES, *METHODS, *STRANGERS, *NOT_YOURS, *OTHER_SITES, *BODIES]
