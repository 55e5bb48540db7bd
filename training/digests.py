"""Write sizes and digests of the shipped files into tiny-3d/model.yaml, so that a picture tells which files drew it.

python -m training.digests
"""

import hashlib
import re

from training.export import SHIPPED

LICENCES = {"paint.onnx": "MIT, Apache-2.0", "enlarge.onnx": "MIT, Apache-2.0", "words.json": "Apache-2.0"}


def main() -> None:
    page = SHIPPED.parent / "tiny-3d/model.yaml"
    lines = ["files:"]
    for name, licence in LICENCES.items():
        data = (SHIPPED / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        lines.append(f'  - {{path: tiny/{name}, size: {len(data)}, licence: "{licence}", sha256: {digest}}}')
    text, count = re.subn(r"files:\n(  - .*\n)+", "\n".join(lines) + "\n", page.read_text(encoding="utf-8"))
    if count != 1:
        raise SystemExit(f"{page} has no list of files to replace")
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
