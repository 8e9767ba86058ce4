#!/usr/bin/env python3
"""Writes the first inputs of the target `frames`: what the venues send, from the fixtures of crates/providers."""

import json
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
CORPUS = HERE / "corpus" / "frames"
VENUES = sorted(folder.parent.name for folder in (HERE.parent / "crates/providers/src").glob("*/mod.rs") if (folder.parent / "fixtures").is_dir())


def compact(value):
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


CORPUS.mkdir(parents=True, exist_ok=True)
for number, venue in enumerate(VENUES):
    for path in sorted((HERE.parent / "crates/providers/src" / venue / "fixtures").glob("*.json")):
        steps = json.loads(path.read_text()).get("steps", [])
        messages = [compact(step[key]) for step in steps for key in ("frame", "text") if step.get(key) is not None]
        if messages:
            (CORPUS / f"{venue}-{path.stem}").write_bytes(bytes([number]) + "\x1e".join(messages).encode())
        for place, step in enumerate(step for step in steps if step.get("rest")):
            (CORPUS / f"{venue}-{path.stem}-rest-{place}").write_bytes(bytes([number]) + compact(step["rest"]["body"]).encode())
print(f"{len(list(CORPUS.iterdir()))} inputs for {', '.join(VENUES)}")
