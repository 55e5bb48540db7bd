"""Every key of config.yaml: its type in words, its default, and what it is for."""

from collections.abc import Mapping
from typing import Any

# `config init` and the docs print this.
KEYS: Mapping[str, tuple[str, Any, str]] = {
    "database": (
        "text",
        "sqlite",
        "where jobs are remembered: `sqlite` is one file in the data folder; or `postgresql://user:password@host/db`",
    ),
    "synchronous": (
        "text",
        "normal",
        "how SQLite writes: `normal` survives the end of any program; `full` a power cut too, and waits for the disk",
    ),
    "storage": (
        "text",
        "local",
        "where pictures lie: `local` is a folder beside the database; or a bucket, as in `s3://bucket/folder`",
    ),
    "default_model": ("text", None, "the model of a request that names none"),
    "preview": ("policy", None, "how previews are made unless a request or a model says otherwise"),
    "paid_calls": (
        "text",
        "allowed",
        "whether models that cost money may be asked: `allowed`, where config.yaml names them, or `forbidden`",
    ),
    "server": ("group", None, "where `imagen serve` listens, and whom it answers"),
    "limits": ("group", None, "how much one request, one key or all of them may ask of `imagen serve`"),
    "openai": ("group", None, "how `imagen serve` answers programs made for the OpenAI Images API"),
    "s3": ("group", None, "how a bucket is reached; its keys come from the environment, a profile or a role"),
    "webhooks": ("group", None, "how the receivers of webhooks know us, and which of them may be asked"),
    "devices": ("mapping", {}, "how a device is shared with other programs and among models: `name: {key: value}`"),
    "backends": ("mapping", {}, "settings for every model of a backend: `name: {key: value}`"),
    "servers": ("mapping", {}, "other imagen servers, for `imagen --server NAME`: `name: {url: …, key: …}`"),
    "models": ("mapping", {}, "your models: `name: {backend: …}`, or a bundled name with the keys to change"),
}
FROM_ENVIRONMENT = ("database", "synchronous", "storage", "default_model", "paid_calls")
SYNCHRONOUS = ("normal", "full")
PAID_CALLS = ("allowed", "forbidden")

# Every key of a group, like KEYS; each can come from the environment too: IMAGEN_SERVER_PORT, IMAGEN_LIMITS_STEPS.
SERVER: Mapping[str, tuple[str, Any, str]] = {
    "host": (
        "text",
        "127.0.0.1",
        "the address to listen on; any but this machine's own needs a key: `imagen keys add`",
    ),
    "port": ("port", 8450, "the port to listen on; 0 takes any free one"),
    "hosts": ("names", (), "names under which others reach this server, for instance behind a proxy"),
    "origins": ("origins", (), "web sites whose pages may use this server, for instance https://gallery.example"),
    "public_url": ("url", None, "the address of this server as others see it, when a proxy stands before it"),
}
LIMITS: Mapping[str, tuple[str, Any, str]] = {
    # No text encoder reads more than a few thousand characters; the rest would only lie in the database.
    "prompt_chars": ("limit", 20_000, "characters of a prompt, and of a negative prompt"),
    # 4096 x 4096: four times what today's models draw, and about 200 MiB while it is drawn and encoded.
    "pixels": ("limit", 16_777_216, "width times height of one picture"),
    "side": ("limit", 8192, "pixels of the longer side; few decoders work beyond it"),
    # The slowest samplers in use take 150.
    "steps": ("limit", 500, "steps of one picture"),
    # More is a series, which can be watched, cancelled and resumed by the picture.
    "n": ("limit", 16, "pictures of one request"),
    # Half an hour of a fast card; one key cannot fill the queue before everybody else.
    "queued": ("limit", 1000, "jobs of one caller that wait to be drawn; an admin key may have any number"),
    # A job is a few KiB and the longest series a few hundred: this is both, with room.
    "body_bytes": ("number", 1_048_576, "bytes of the body of one request"),
    # Each costs a connection and up to 50 KiB; two thousand stay below 100 MiB.
    "streams": ("limit", 2000, "event streams that are open at once"),
    # A thousand watchers behind one key is a web site with an audience; a loop that never closes is stopped here.
    "streams_per_key": ("limit", 1100, "event streams that one key has open at once"),
    # On a slow line a header takes a second. Who takes longer holds a connection for nothing.
    "header_s": ("number", 10, "seconds a client may take to send the head of a request"),
    "body_s": ("number", 10, "seconds a client may take to send its body"),
    # Ten prompts, ten models, ten seeds.
    "series_cells": ("limit", 1000, "pictures of one series"),
    # Proxies give up on a silent answer after a minute.
    "wait_s": ("number", 60, "seconds that `Prefer: wait` may keep a request open"),
}
OPENAI: Mapping[str, tuple[str, Any, str]] = {
    "aliases": (
        "aliases",
        dict.fromkeys(
            (
                "gpt-image-1",
                "gpt-image-1-mini",
                "gpt-image-1.5",
                "gpt-image-2",
                "gpt-image-2.5-flare",
                "dall-e-2",
                "dall-e-3",
            )
        ),
        "names that programs insist on, and the model each means; null: the default model",
    ),
    "strict": (
        "flag",
        False,
        "refuse a name that is neither model nor alias, instead of drawing with the default",
    ),
    "on_disconnect": (
        "auto | keep | cancel",
        "auto",
        "when the client leaves before the end: keep the job, or cancel it; auto: cancel streams, keep the others",
    ),
    # Below the minute after which proxies drop a silent connection, and long enough for most failures to have come.
    "hold_s": ("number", 45, "seconds for which a request that is no stream waits in silence; then come blanks"),
}
S3: Mapping[str, tuple[str, Any, str]] = {
    "endpoint": ("url", None, "the address of the store, when it is not Amazon's"),
    "region": ("text", None, "its region; else AWS_REGION, the profile's, or us-east-1"),
    "path_style": ("flag", True, "whether the bucket stands in the path; false: in the name of the host"),
    "allow_http": ("flag", False, "whether an endpoint without TLS may be asked: only on a network you trust"),
    "profile": ("text", None, "the profile of ~/.aws/credentials; else AWS_PROFILE, or `default`"),
    "reads": (
        "proxied | presigned",
        "proxied",
        "how pictures reach a browser: through this server, or by a signed address from the store itself",
    ),
    # A browser follows it at once; whoever copies it has the picture for so long.
    "presign_s": ("number", 600, "seconds for which a signed address holds"),
    "public_endpoint": ("url", None, "the address of the store as browsers see it, where that is another one"),
    # A store that is started again is back within a minute.
    "patience_s": ("number", 120, "seconds for which a picture that is drawn waits for a store that is away"),
}
WEBHOOKS: Mapping[str, tuple[str, Any, str]] = {
    "secret": (
        "secret",
        None,
        "what the secret of each key is made from: any long text, the same on every machine; else the database has one",
    ),
    "allow": (
        "targets",
        (),
        "receivers that may be asked though they are not public: hook.lan, *.lan, 10.0.0.0/8",
    ),
    # Long enough to look into what went wrong last month; a row is some 200 bytes.
    "keep_days": ("limit", 30, "days after which it is forgotten what became of a message; null: never"),
}
# Every key of one device under `devices:`.
DEVICE: Mapping[str, tuple[str, Any, str]] = {
    "vram_mib": (
        "number",
        None,
        "MiB that models may hold of it together: each takes its own `vram_mib`, and one that says none takes all",
    ),
    "before": (
        "hook",
        None,
        "run before the device is used after it was given back: the words of a command, or an address to post to",
    ),
    "after": ("hook", None, "the same, after it was given back"),
    "hook_timeout_s": ("number", 30, "seconds after which a hook has failed"),
    # Somebody who draws one picture after the other thinks for less than that in between.
    "idle_s": ("number", None, "seconds without work after which it is given back; else as its backend says, or 60"),
}
GROUPS = {"server": SERVER, "limits": LIMITS, "openai": OPENAI, "s3": S3, "webhooks": WEBHOOKS}
